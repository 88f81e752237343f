//! What can go wrong between a client and its store, and which requests it happens to.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::dialect::Refusal;
use super::request::{Kind, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// 503; nothing is done.
    SlowDown,
    /// 500; nothing is done.
    InternalError,
    /// 403, as to a client whose clock is wrong; nothing is done.
    RequestTimeTooSkewed,
    /// 403, as to a client whose session is over; nothing is done.
    ExpiredToken,
    /// No answer, until it is released: then the request is carried out. A client that leaves first is forgotten.
    Stall,
    /// Half of the answer, and no more until it is released.
    StallInResponse,
    /// The connection is reset in the middle of the request's body; nothing is done.
    CutRequest,
    /// The connection is reset in the middle of the answer.
    CutResponse,
    /// The request is carried out, then the connection is reset without an answer.
    LostAnswer,
    /// Status 200 and an error for a body, where S3 knows that; nothing is done.
    ErrorInside200,
    /// One bit of an object differs in the answer.
    FlippedBit,
}

impl Fault {
    /// Those that pass when one asks again.
    pub const TRANSIENT: [Self; 7] = [
        Self::SlowDown,
        Self::InternalError,
        Self::CutRequest,
        Self::CutResponse,
        Self::LostAnswer,
        Self::ErrorInside200,
        Self::FlippedBit,
    ];

    pub const ALL: [Self; 11] = [
        Self::SlowDown,
        Self::InternalError,
        Self::RequestTimeTooSkewed,
        Self::ExpiredToken,
        Self::Stall,
        Self::StallInResponse,
        Self::CutRequest,
        Self::CutResponse,
        Self::LostAnswer,
        Self::ErrorInside200,
        Self::FlippedBit,
    ];

    /// Whether it means anything to a request of this kind.
    pub fn fits(self, kind: Kind) -> bool {
        match self {
            Self::ErrorInside200 => matches!(kind, Kind::Complete | Kind::Copy | Kind::BulkDelete),
            Self::FlippedBit => kind == Kind::Get,
            _ => true,
        }
    }

    /// The error that the client is told instead of an answer.
    pub fn refusal(self) -> Option<Refusal> {
        let (status, code, message) = match self {
            Self::SlowDown => (503, "SlowDown", "Please reduce your request rate."),
            Self::InternalError => (500, "InternalError", "We encountered an internal error. Please try again."),
            Self::RequestTimeTooSkewed => {
                (403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large.")
            }
            Self::ExpiredToken => (403, "ExpiredToken", "The provided token has expired."),
            Self::ErrorInside200 => (200, "InternalError", "We encountered an internal error. Please try again."),
            _ => return None,
        };
        Some(Refusal { status, code, message, ec: "" })
    }
}

/// Which requests a planned fault happens to: the next one of a kind, unless told otherwise.
#[derive(Clone, Debug)]
pub struct On {
    kinds: Vec<Kind>,
    key_part: String,
    skip: usize,
    left: usize,
}

impl On {
    pub fn any() -> Self {
        Self { kinds: Vec::new(), key_part: String::new(), skip: 0, left: 1 }
    }

    pub fn kind(kind: Kind) -> Self {
        Self { kinds: vec![kind], ..Self::any() }
    }

    pub fn kinds(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), ..Self::any() }
    }

    /// Only where the key contains this.
    pub fn key(mut self, part: &str) -> Self {
        self.key_part = part.to_owned();
        self
    }

    /// Not the next one but the `nth`, counted from one.
    pub fn nth(mut self, nth: usize) -> Self {
        self.skip = nth - 1;
        self
    }

    /// So many running.
    pub fn times(mut self, times: usize) -> Self {
        self.left = times;
        self
    }

    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    fn matches(&self, request: &Request) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&request.kind)) && request.key.contains(&self.key_part)
    }
}

/// Which fault meets the next request.
#[derive(Debug, Default)]
pub struct Plan {
    rules: Vec<(On, Fault)>,
    random: Option<Random>,
}

impl Plan {
    pub fn add(&mut self, on: On, fault: Fault) {
        self.rules.push((on, fault));
    }

    pub fn draw_from(&mut self, seed: u64, one_in: u32, faults: &[Fault]) {
        let rng = StdRng::seed_from_u64(seed);
        self.random = Some(Random { rng, one_in, faults: faults.to_vec(), running: HashMap::new() });
    }

    /// The first rule that matches decides; without one the lot does.
    pub fn next(&mut self, request: &Request) -> Option<Fault> {
        for (on, fault) in &mut self.rules {
            if on.left == 0 || !fault.fits(request.kind) || !on.matches(request) {
                continue;
            }
            if on.skip > 0 {
                on.skip -= 1;
                continue;
            }
            on.left -= 1;
            return Some(*fault);
        }
        self.random.as_mut()?.next(request)
    }
}

#[derive(Debug)]
struct Random {
    rng: StdRng,
    one_in: u32,
    faults: Vec<Fault>,
    /// How often each request has met a fault since it was last let through.
    running: HashMap<String, usize>,
}

impl Random {
    /// A client that asks often enough gets through: what it must do is then certain, not merely likely.
    const MOST_RUNNING: usize = 2;

    fn next(&mut self, request: &Request) -> Option<Fault> {
        let running = self.running.entry(format!("{} {}", request.method, request.target)).or_default();
        let hit = self.rng.random_range(0..self.one_in) == 0;
        let fitting: Vec<Fault> = self.faults.iter().copied().filter(|fault| fault.fits(request.kind)).collect();
        if !hit || fitting.is_empty() || *running == Self::MOST_RUNNING {
            *running = 0;
            return None;
        }
        *running += 1;
        Some(fitting[self.rng.random_range(0..fitting.len())])
    }
}
