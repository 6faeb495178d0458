//! What `benches/` measures of the inside.

use crate::log::append::{Front, Refused};
use crate::log::record::{self, Cpl, Fields, Kind};
use crate::lsn::{Lsn, format};

fn fields() -> Fields {
    Fields { kind: Kind::Image, page: 1, ..Fields::filler() }
}

/// Bytes of a record that ends an MTR.
pub fn encoded_len(payload: usize) -> usize {
    record::encoded_len(payload, true) as usize
}

/// Encodes one record, checksum included.
pub fn encode(out: &mut [u8], payload: &[u8]) {
    record::encode(out, 7, Lsn(4096), 1, &fields(), Some(Cpl::default()), payload);
}

/// The appending side alone: what it seals counts as durable at once.
pub struct Appender(Front);

impl Appender {
    /// An empty log.
    #[allow(clippy::new_without_default, reason = "a bench makes one")]
    pub fn new() -> Appender {
        let front = Front::new(7, 1, format::BLOCK_MIN, Lsn(format::BLOCK_MIN));
        front.set_space(Lsn::MAX);
        Appender(front)
    }

    /// Reserves, fills and publishes an MTR of one record.
    pub fn append(&self, payload: &[u8]) {
        let lengths = [record::encoded_len(payload.len(), true)];
        let reservation = loop {
            let reserved = self.0.lock().reserve(&lengths);
            match reserved {
                Ok(reservation) => break reservation,
                Err(Refused::Ring) => {
                    self.0.seal();
                    while self.0.next_sealed().is_some() {}
                    self.0.set_vdl(self.0.tail());
                }
                Err(refused) => panic!("{refused:?}"),
            }
        };
        self.0.fill(&reservation, 0, &fields(), Some(Cpl::default()), payload);
        self.0.publish(reservation);
    }
}
