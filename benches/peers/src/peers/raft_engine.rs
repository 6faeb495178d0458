//! raft-engine: the log of TiKV's Raft groups. Its keys and values are written with `sync`: a write returns after an
//! `fdatasync` of the log, which threads that write at once share. Values stay in memory, so it is not asked to read.

use crate::peer::{Peer, Setup};
use anyhow::{Context, Result};
use raft_engine::{Config, Engine, LogBatch};

/// One Raft group for everything.
const GROUP: u64 = 1;

struct Raft(Engine);

pub fn open(setup: &Setup) -> Result<Box<dyn Peer>> {
    let dir = setup.dirs[0].join("kv.raft");
    let dir = dir.to_str().context("a directory's name is not UTF-8")?.to_string();
    Ok(Box::new(Raft(Engine::open(Config { dir, ..Config::default() })?)))
}

impl Peer for Raft {
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()> {
        let mut batch = LogBatch::with_capacity(all.len());
        for (key, value) in all {
            batch.put(GROUP, key.to_be_bytes().to_vec(), value.to_vec())?;
        }
        self.0.write(&mut batch, true)?;
        Ok(())
    }

    fn get(&self, key: u64, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        see(&self.0.get(GROUP, &key.to_be_bytes()).context("no such key")?);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
