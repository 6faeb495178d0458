//! Long chains of deltas.
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use proptest::prelude::*;
use quorate::{LogKind, Lsn, Options, PageId, Volume};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

/// The longest chain of deltas that a reader can meet: below the newest version of a page at the end of an MTR.
fn longest_chain(at: &Path, options: &Options) -> usize {
    let (mut now, mut longest) = (HashMap::new(), 0);
    Volume::open_read_only(at, options).unwrap().log(Lsn::NONE, |record| {
        let record = record.unwrap();
        if let Some(page) = record.page {
            let depth: &mut usize = now.entry(page).or_default();
            *depth = if record.kind == LogKind::Delta { *depth + 1 } else { 0 };
        }
        if record.cpl.is_some() {
            longest = longest.max(now.values().copied().max().unwrap_or(0));
        }
        ControlFlow::Continue(())
    });
    longest
}

#[test]
fn an_mtr_may_patch_one_page_many_times() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let volume = Volume::create(dir.path(), &Options::default()).unwrap();
    let mut mtr = volume.begin();
    for i in 0..1000u32 {
        mtr.patch(PageId::ROOT, 4 * i, &i.to_le_bytes());
    }
    mtr.commit().unwrap().wait().unwrap();
    volume.close().unwrap();
    assert!(longest_chain(dir.path(), &Options::default()) < 32);
    // Nothing is cached: the page is made from its records.
    let volume = Volume::open(dir.path(), &Options::default()).unwrap();
    let mut mtr = volume.begin();
    mtr.patch(PageId::ROOT, 0, b"next");
    mtr.commit().unwrap().wait().unwrap();
    let page = volume.read(PageId::ROOT).unwrap();
    assert_eq!(&page[..4], b"next");
    assert!((1..1000u32).all(|i| page[4 * i as usize..][..4] == i.to_le_bytes()));
    volume.close().unwrap();
}

/// A change of an MTR.
#[derive(Clone, Debug)]
enum Op {
    Put(u8),
    /// So many patches, one byte further each.
    Patches {
        count: usize,
        offset: u32,
        byte: u8,
    },
    Free,
}

const PAGE: usize = 4096;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => any::<u8>().prop_map(Op::Put),
        8 => (prop_oneof![1usize..9, 25usize..70], 0u32..3000, any::<u8>())
            .prop_map(|(count, offset, byte)| Op::Patches { count, offset, byte }),
        1 => Just(Op::Free),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn many_patches_of_a_page_are_folded_and_nothing_is_lost(
        // An MTR: its changes, by page; whether the volume is opened anew behind it, with nothing cached.
        mtrs in prop::collection::vec((prop::collection::vec((0usize..3, op()), 1..5), prop::bool::weighted(0.3)), 1..8),
    ) {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options = Options::default().page_size(PAGE as u32);
        let mut volume = Volume::create(dir.path(), &options).unwrap();
        let mut pages: [Option<(PageId, Vec<u8>)>; 3] = [const { None }; 3];
        for (ops, reopen) in mtrs {
            let mut mtr = volume.begin();
            let mut freed = [false; 3];
            for (i, op) in ops {
                if freed[i] {
                    continue;
                }
                if pages[i].is_none() {
                    pages[i] = Some((mtr.alloc().unwrap(), vec![0; PAGE]));
                }
                let (page, content) = pages[i].as_mut().unwrap();
                match op {
                    Op::Put(byte) => {
                        content.fill(byte);
                        mtr.put(*page, content.clone());
                    }
                    Op::Patches { count, offset, byte } => {
                        for n in 0..count {
                            let at = offset as usize + n;
                            content[at..at + 2].fill(byte.wrapping_add(n as u8));
                            mtr.patch(*page, at as u32, &content[at..at + 2]);
                        }
                    }
                    Op::Free => {
                        mtr.free(*page);
                        (pages[i], freed[i]) = (None, true);
                    }
                }
            }
            mtr.commit().unwrap().wait().unwrap();
            if reopen {
                volume.close().unwrap();
                volume = Volume::open(dir.path(), &options).unwrap();
            }
            for (page, content) in pages.iter().flatten() {
                prop_assert!(volume.read(*page).unwrap()[..] == content[..], "page {}", page);
            }
        }
        volume.close().unwrap();
        let volume = Volume::open(dir.path(), &options).unwrap();
        for (page, content) in pages.iter().flatten() {
            prop_assert!(volume.read(*page).unwrap()[..] == content[..], "page {}", page);
        }
        volume.close().unwrap();
        let longest = longest_chain(dir.path(), &options);
        prop_assert!(longest <= 32, "{} deltas", longest);
    }
}
