//! SQLite, bundled: WAL and `synchronous=FULL`, so that each commit returns after an `fsync` of the log. One connection
//! writes, as SQLite has one writer at a time; threads queue for it at a mutex, which is cheaper than SQLite's own waiting.
//! Readers take a connection each from a pool; each has a cache of the whole size.

use crate::peer::{Peer, Setup};
use anyhow::Result;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::path::{Path, PathBuf};

struct Sqlite {
    path: PathBuf,
    cache: u64,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

pub fn open(setup: &Setup) -> Result<Box<dyn Peer>> {
    let path = setup.dirs[0].join("kv.sqlite");
    let db = connect(&path, setup.cache)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    if setup.keep_log {
        db.pragma_update(None, "wal_autocheckpoint", 0)?;
    }
    db.execute("CREATE TABLE IF NOT EXISTS kv (k INTEGER PRIMARY KEY, v BLOB NOT NULL)", [])?;
    Ok(Box::new(Sqlite { path, cache: setup.cache, writer: Mutex::new(db), readers: Mutex::default() }))
}

fn connect(path: &Path, cache: u64) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -i64::try_from(cache >> 10)?)?;
    Ok(db)
}

impl Peer for Sqlite {
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()> {
        let mut db = self.writer.lock();
        let txn = db.transaction()?;
        let mut insert = txn.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2)")?;
        for (key, value) in all {
            insert.execute((i64::try_from(*key)?, value))?;
        }
        drop(insert);
        Ok(txn.commit()?)
    }

    fn get(&self, key: u64, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let idle = self.readers.lock().pop();
        let db = idle.map_or_else(|| connect(&self.path, self.cache), Ok)?;
        let mut select = db.prepare_cached("SELECT v FROM kv WHERE k = ?1")?;
        select.query_row([i64::try_from(key)?], |row| {
            see(row.get_ref(0)?.as_blob()?);
            Ok(())
        })?;
        drop(select);
        self.readers.lock().push(db);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
