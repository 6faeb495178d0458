//! The same durable work by quorate and by other embedded engines, in turns on the same disks. README.md says how to read
//! the figures.

mod about;
mod child;
mod group;
mod peer;
mod peers;
mod place;
mod pool;
mod report;
mod trace;
mod work;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Parser, Debug)]
#[command(about = "The same durable work by quorate and by other embedded engines, in turns on the same disks")]
struct Cli {
    /// One directory, or three with commas between, best one a disk; the engines work below them.
    #[arg(long, value_delimiter = ',', required = true)]
    at: Vec<PathBuf>,
    /// Rounds; each has all engines. A report is of five or more.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Seconds of a measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// MiB of pages that are loaded, and read cold.
    #[arg(long, default_value_t = 128)]
    data_mib: u64,
    /// These works alone, with commas between: commit_1, commit_16, commit_16_grouped, pipelined_64, put_8_pages,
    /// batch_load, read_hot, read_cold, mixed_90_10, reopen_after_kill, scale.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// These engines alone, with commas between.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Counts the sync calls of commits instead, and fails where there is less than one a commit.
    #[arg(long)]
    strace: bool,
    /// Where everything goes as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the table goes; stdout otherwise.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// The directory for a chart of each work.
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Parser, Debug)]
struct ChildCli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Child(child::Args),
}

fn main() -> Result<()> {
    // The hidden verb: no option of the bench is one of its own.
    if std::env::args().nth(1).as_deref() == Some("child") {
        let Verb::Child(args) = ChildCli::parse().verb;
        return child::run(args);
    }
    let cli = Cli::parse();
    ensure!(matches!(cli.at.len(), 1 | 3), "--at takes one directory, or three");
    for only in &cli.only {
        ensure!(work::METRICS.iter().any(|m| m.work == only), "no work {only:?}: see --help");
    }
    let kinds: Vec<_> = match cli.peers.as_slice() {
        [] => peers::ALL.iter().collect(),
        names => names.iter().map(|n| peers::find(n)).collect::<Result<_>>()?,
    };
    // One directory is three for who spreads copies: all on one disk.
    let dirs = match cli.at.as_slice() {
        [one] => (0..3).map(|az| one.join(format!("az-{az}"))).collect(),
        more => more.to_vec(),
    };
    for dir in &dirs {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    if cli.strace {
        let text = trace::run(&kinds, &dirs)?;
        return cli.markdown.map_or(Ok(()), |path| write(&path, &text));
    }
    measure(&cli, &kinds, &dirs)
}

fn measure(cli: &Cli, kinds: &[&'static peer::Kind], dirs: &[PathBuf]) -> Result<()> {
    let names: Vec<_> = kinds.iter().map(|k| k.name).collect();
    let mut about = about::about(dirs, &names);
    let plan = work::Plan {
        time: Duration::from_secs_f64(cli.seconds),
        data: cli.data_mib << 20,
        dirs: dirs.to_vec(),
        only: cli.only.clone(),
    };
    let pool = pool::Pool::new();
    let mut report = report::Report::new(kinds);
    for round in 0..cli.rounds {
        for (i, kind) in kinds.iter().enumerate() {
            eprintln!("round {} of {}: {}", round + 1, cli.rounds, kind.name);
            let mut told = Vec::new();
            let mut tell = |work: &str, what: &str, value: f64| told.push((work.to_string(), what.to_string(), value));
            let ended = work::round(kind, &plan, &pool, round + 1, &mut tell);
            told.iter().for_each(|(work, what, value)| report.add(i, work, what, *value));
            if let Err(e) = ended {
                eprintln!("{}: {e:#}", kind.name);
                report.failures.push(format!("round {}: {}: {e:#}", round + 1, kind.name));
            }
        }
        // After each round, so that a run that is cut short leaves what it has.
        about["rounds"] = json!(round + 1);
        about["seconds"] = json!(cli.seconds);
        about["data_mib"] = json!(cli.data_mib);
        about["load_average_at_end"] = json!(about::load());
        save(cli, &report, &about)?;
    }
    if cli.markdown.is_none() {
        print!("{}", report.markdown());
    }
    ensure!(report.failures.is_empty(), "{} failures: see above", report.failures.len());
    Ok(())
}

fn save(cli: &Cli, report: &report::Report, about: &serde_json::Value) -> Result<()> {
    if let Some(path) = &cli.json {
        write(path, &(serde_json::to_string_pretty(&report.json(about))? + "\n"))?;
    }
    if let Some(path) = &cli.markdown {
        write(path, &report.markdown())?;
    }
    if let Some(dir) = &cli.svg {
        std::fs::create_dir_all(dir)?;
        for (work, svg) in report.drawings() {
            write(&dir.join(format!("{work}.svg")), &svg)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
