//! fjall: a log-structured merge tree. Each batch has `PersistMode::SyncAll`: it returns after an `fsync` of the journal.

use crate::peer::{Peer, Setup};
use anyhow::{Context, Result};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

struct Fjall {
    db: Database,
    kv: Keyspace,
}

pub fn open(setup: &Setup) -> Result<Box<dyn Peer>> {
    let mut builder = Database::builder(setup.dirs[0].join("kv.fjall")).cache_size(setup.cache);
    if setup.keep_log {
        builder = builder.max_journaling_size(1 << 30);
    }
    let db = builder.open()?;
    let keep = setup.keep_log;
    let kv = db.keyspace("kv", || {
        let options = KeyspaceCreateOptions::default();
        if keep { options.max_memtable_size(512 << 20) } else { options }
    })?;
    Ok(Box::new(Fjall { db, kv }))
}

impl Peer for Fjall {
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in all {
            batch.insert(&self.kv, key.to_be_bytes(), *value);
        }
        Ok(batch.commit()?)
    }

    fn get(&self, key: u64, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        see(&self.kv.get(key.to_be_bytes())?.context("no such key")?);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
