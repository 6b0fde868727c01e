//! How much each row does, per transport. Upstream `libp2p-webrtc` gets less where the full amount
//! would take minutes; every measurement prints the amount it used.

use crate::transports::Kind;

/// The amounts of one cell of the table.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    /// Dials one after the other.
    pub dials: usize,
    /// Dials at once.
    pub burst: usize,
    /// Size of a bulk transfer in MiB.
    pub bulk_mib: u64,
    /// How often each bulk transfer is repeated.
    pub bulk_runs: usize,
    /// Idle connections whose memory is measured.
    pub idle: usize,
    /// Echoes on one stream.
    pub echoes: usize,
    /// Size of the transfer over the lossy path in MiB.
    pub loss_mib: u64,
    /// Connections opened and closed in each of the three rounds.
    pub closes: usize,
    /// Dials of the stored address, before and again after the restart.
    pub redials: usize,
    /// Signed connectivity checks of the flood.
    pub checks: usize,
}

impl Amounts {
    /// The amounts for `kind`; `quick` takes a tenth.
    pub fn of(kind: Kind, quick: bool) -> Self {
        let full = match kind {
            Kind::Rtc | Kind::Quic => Self {
                dials: 100,
                burst: 500,
                bulk_mib: 256,
                bulk_runs: 3,
                idle: 1000,
                echoes: 5000,
                loss_mib: 64,
                closes: 334,
                redials: 100,
                checks: 100_000,
            },
            Kind::Webrtc => Self {
                dials: 100,
                burst: 500,
                bulk_mib: 16,
                bulk_runs: 3,
                idle: 100,
                echoes: 1000,
                loss_mib: 4,
                closes: 34,
                redials: 5,
                checks: 20_000,
            },
        };
        if quick { full.tenth() } else { full }
    }

    /// A tenth of everything that would still mean something.
    fn tenth(self) -> Self {
        Self {
            dials: self.dials / 5,
            burst: self.burst / 10,
            bulk_mib: (self.bulk_mib / 8).max(4),
            bulk_runs: 1,
            idle: self.idle / 5,
            echoes: self.echoes / 10,
            loss_mib: (self.loss_mib / 8).max(1),
            closes: self.closes / 5,
            redials: (self.redials / 10).max(2),
            checks: self.checks / 10,
        }
    }
}
