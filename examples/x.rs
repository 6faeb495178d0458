//! scratch
fn main() {
    let a: Vec<u64> = std::env::args().skip(1).filter_map(|s| s.parse().ok()).collect();
    let (from, to, steps, trace) = (a[0], a[1], a[2], a.len() > 3);
    let t = std::time::Instant::now();
    let mut bad = 0;
    let mut sum: std::collections::BTreeMap<&str, u64> = Default::default();
    for seed in from..to {
        let r = std::panic::catch_unwind(|| quorate::sim::run(seed, steps, trace));
        match r {
            Ok(Ok(r)) => {
                if trace {
                    r.trace.iter().for_each(|l| println!("{l}"));
                    println!("hash {:x}", r.hash)
                }
                for (k, v) in r.counts {
                    *sum.entry(k).or_default() += v
                }
            }
            Ok(Err(f)) => {
                bad += 1;
                if trace {
                    f.trace.iter().for_each(|l| println!("{l}"))
                }
                println!("seed {seed}: {}", f.what)
            }
            Err(_) => {
                bad += 1;
                println!("seed {seed}: PANIC")
            }
        }
        if bad > 10 {
            break;
        }
    }
    println!("{bad} bad, {:?} {sum:?}", t.elapsed());
}
