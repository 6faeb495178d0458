//! RocksDB. `WriteOptions::sync`: a write returns after an `fdatasync` of the log. Threads that write at once share it.

use crate::peer::{Peer, Setup};
use anyhow::{Context, Result};
use rocksdb::{BlockBasedOptions, Cache, DB, Options, WriteBatch, WriteOptions};

struct Rocks {
    db: DB,
    sync: WriteOptions,
}

pub fn open(setup: &Setup) -> Result<Box<dyn Peer>> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(usize::try_from(setup.cache)?));
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    if setup.keep_log {
        options.set_write_buffer_size(512 << 20);
    }
    let mut sync = WriteOptions::default();
    sync.set_sync(true);
    Ok(Box::new(Rocks { db: DB::open(&options, setup.dirs[0].join("kv.rocksdb"))?, sync }))
}

impl Peer for Rocks {
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in all {
            batch.put(key.to_be_bytes(), value);
        }
        Ok(self.db.write_opt(batch, &self.sync)?)
    }

    fn commit(&self, key: u64, value: &[u8]) -> Result<()> {
        Ok(self.db.put_opt(key.to_be_bytes(), value, &self.sync)?)
    }

    fn get(&self, key: u64, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        see(&self.db.get_pinned(key.to_be_bytes())?.context("no such key")?);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
