//! LMDB: a copy-on-write B-tree that is read through a memory map. No flag is set, so that each commit is synced. It has
//! no cache of its own: the kernel's is its cache, and is as large as memory.
#![allow(unsafe_code)]

use crate::peer::{Peer, Setup};
use anyhow::{Context, Result};
use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, WithTls};

type Kv = Database<'static, U64<BigEndian>, Bytes>;

struct Lmdb {
    env: Env<WithTls>,
    kv: Kv,
}

pub fn open(setup: &Setup) -> Result<Box<dyn Peer>> {
    let dir = setup.dirs[0].join("kv.lmdb");
    std::fs::create_dir_all(&dir)?;
    // SAFETY: nobody else changes the files of this directory, which is the bench's own.
    let env = unsafe { EnvOpenOptions::new().map_size(8 << 30).max_readers(256).open(&dir)? };
    let txn = env.write_txn()?;
    let made: CommitOrAbort<Kv, ()> =
        env.create_databases_and_commit(txn, |db, txn| db.create_database(txn, None).map(CommitOrAbort::Commit))?;
    let kv = made.commit().context("the database was not made")?;
    Ok(Box::new(Lmdb { env, kv }))
}

impl Peer for Lmdb {
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in all {
            self.kv.put(&mut txn, key, value)?;
        }
        Ok(txn.commit()?)
    }

    fn get(&self, key: u64, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let txn = self.env.read_txn()?;
        see(self.kv.get(&txn, &key)?.context("no such key")?);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}
