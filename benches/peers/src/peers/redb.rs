//! redb: a copy-on-write B-tree in one file. `Durability::Immediate` is its default, and set all the same.

use crate::peer::{Peer, Setup};
use anyhow::{Context, Result};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("kv");

struct Redb(Database);

pub fn open(setup: &Setup) -> Result<Box<dyn Peer>> {
    let cache = usize::try_from(setup.cache)?;
    let db = Database::builder().set_cache_size(cache).create(setup.dirs[0].join("kv.redb"))?;
    Ok(Box::new(Redb(db)))
}

impl Peer for Redb {
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()> {
        let mut txn = self.0.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        let mut table = txn.open_table(TABLE)?;
        for (key, value) in all {
            table.insert(key, value)?;
        }
        drop(table);
        Ok(txn.commit()?)
    }

    fn get(&self, key: u64, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        see(redb::ReadableTable::get(&table, key)?.context("no such key")?.value());
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
