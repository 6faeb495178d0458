//! What runs in a process of its own: the writer that is killed, and the one that is traced.

use crate::peer::{Kind, PAGE, SMALL, SMALL_BYTES, SMALL_KEYS, Setup};
use crate::peers;
use crate::pool::{Pool, Random};
use crate::work::{KILL_BYTES, PUT};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the traced process tries to open before its commits, and after them.
pub const MARK: &str = "/quorate-peers-mark";

/// The hidden verb.
#[derive(clap::Args, Debug)]
pub struct Args {
    peer: String,
    #[arg(value_delimiter = ',')]
    dirs: Vec<PathBuf>,
    /// So many small commits, by one thread. None: 64 MiB of pages, then wait to be killed.
    #[arg(long)]
    commits: Option<u64>,
    #[arg(long)]
    no_uring: bool,
}

/// Does it.
pub fn run(args: Args) -> Result<()> {
    let kind = peers::find(&args.peer)?;
    let keep_log = args.commits.is_none();
    let setup = Setup { dirs: args.dirs, cache: 64 << 20, keep_log, uring: !args.no_uring };
    let peer = (kind.open)(&setup)?;
    let pool = Pool::new();
    if let Some(commits) = args.commits {
        let mut random = Random::new(5);
        let _ = std::fs::File::open(MARK);
        for _ in 0..commits {
            let key = SMALL + random.below(SMALL_KEYS);
            peer.commit(key, pool.value(random.next(), SMALL_BYTES))?;
        }
        let _ = std::fs::File::open(MARK);
        return peer.close();
    }
    for put in 0..KILL_BYTES / (PUT * PAGE as u64) {
        peer.commit_batch(&pool.pages(put * PUT, PUT))?;
    }
    println!("enough");
    std::io::stdout().flush()?;
    // Longer only if nobody is there to kill it.
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// This program as a child.
pub fn arguments(kind: &Kind, setup: &Setup) -> Vec<String> {
    let dirs: Vec<_> = setup.dirs.iter().map(|d| d.display().to_string()).collect();
    let mut all = vec!["child".to_string(), kind.name.to_string(), dirs.join(",")];
    if !setup.uring {
        all.push("--no-uring".to_string());
    }
    all
}

/// A child that does not outlive the bench.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a child write, and kills it with SIGKILL.
pub fn write_and_kill(kind: &Kind, setup: &Setup) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments(kind, setup)).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Killed(command.spawn()?);
    let mut said = String::new();
    BufReader::new(child.0.stdout.take().context("no pipe")?).read_line(&mut said)?;
    ensure!(said.trim() == "enough", "the writer ended early: its error is above");
    Ok(())
}
