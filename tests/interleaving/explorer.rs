//! Goes through every order in which the steps of several processes can fall, with a death of any at any step.
//!
//! Two prefixes of schedules that leave the store equal, and every process with the same answers behind it, have the
//! same future; it is gone through once. Nothing is assumed independent.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pgkeep::error::Result;
use pgkeep::storage::{Key, MemoryStorage};
use tokio::runtime::Runtime;

use crate::stepped::{Actor, steady};

/// What happens next: a step of a process, or its death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Step(usize),
    Crash(usize),
}

pub struct Process {
    pub actor: Arc<Actor>,
    /// None: ended or dead.
    pub work: Option<Pin<Box<dyn Future<Output = Result<()>>>>>,
    pub end: Option<End>,
    pub steps: u32,
}

#[derive(Debug)]
pub enum End {
    Done(Result<()>),
    Dead,
}

impl Process {
    pub fn new(actor: Arc<Actor>, work: impl Future<Output = Result<()>> + 'static) -> Self {
        let mut process = Self { actor, work: Some(Box::pin(work)), end: None, steps: 0 };
        process.poll();
        process
    }

    fn poll(&mut self) {
        let Some(work) = &mut self.work else { return };
        if let Poll::Ready(result) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.work = None;
            self.end = Some(End::Done(result));
        }
    }

    fn step(&mut self, locks: u64) {
        self.actor.grant(locks);
        self.poll();
        self.steps += 1;
        assert!(!self.actor.has_unused_turn(), "a process waits for something else than its turn");
    }

    fn crash(&mut self) {
        self.work = None;
        self.end = Some(End::Dead);
    }
}

/// A world in the middle of a schedule.
///
/// The last process is the one that looks at locks.
pub struct Execution {
    /// Entered for each step, because intents spawn their refresher; it never runs one.
    pub runtime: Arc<Runtime>,
    pub store: MemoryStorage,
    pub processes: Vec<Process>,
}

impl Execution {
    fn make(&mut self, next: Move) {
        let runtime = Arc::clone(&self.runtime);
        let _entered = runtime.enter();
        match next {
            Move::Step(at) => {
                // A writer never looks at locks; who runs and has taken its first step holds one.
                let holds = |p: &Process| u64::from(p.work.is_some() && p.steps > 0);
                let looks = at + 1 == self.processes.len();
                let locks = if looks { self.processes.iter().fold(0, |bits, p| bits << 1 | holds(p)) } else { 0 };
                self.processes[at].step(locks);
            }
            Move::Crash(at) => self.processes[at].crash(),
        }
    }

    fn digest(&self) -> u64 {
        let mut digest = DefaultHasher::new();
        for process in &self.processes {
            (process.work.is_some(), process.steps, process.actor.heard()).hash(&mut digest);
        }
        for (key, body) in self.store.contents() {
            (steady(&key), body.len()).hash(&mut digest);
        }
        digest.finish()
    }
}

pub trait World {
    /// The same beginning each time.
    fn begin(&self) -> Execution;
    /// What is wrong in the middle.
    fn wrong_now(&self, execution: &Execution, contents: &BTreeMap<Key, bytes::Bytes>) -> Option<String>;
    /// What is wrong after everything has ended.
    fn wrong_at_end(&self, execution: Execution) -> Option<String>;
    /// How many processes may die in one schedule.
    fn deaths(&self) -> usize;
}

#[derive(Default)]
pub struct Explored {
    pub states: usize,
    pub ends: usize,
    /// Complete schedules that the states stand for.
    pub schedules: u128,
    /// The first few, each with its schedule.
    pub broken: Vec<String>,
    pub broken_states: usize,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, ends, schedules, broken_states, .. } = self;
        write!(f, "{states} states, {ends} ends, {schedules} schedules, {broken_states} broken states")
    }
}

/// Explores `world` completely. A broken state is counted and not followed further.
pub fn explore(world: &dyn World) -> Explored {
    let mut search = Search { world, known: HashMap::new(), path: Vec::new(), explored: Explored::default() };
    let first = world.begin();
    search.explored.schedules = search.visit(first);
    search.explored
}

struct Search<'a> {
    world: &'a dyn World,
    /// How many complete schedules follow a state.
    known: HashMap<u64, u128>,
    path: Vec<Move>,
    explored: Explored,
}

impl Search<'_> {
    fn visit(&mut self, execution: Execution) -> u128 {
        let digest = execution.digest();
        if let Some(schedules) = self.known.get(&digest) {
            return *schedules;
        }
        self.explored.states += 1;
        let schedules = match self.world.wrong_now(&execution, &execution.store.contents()) {
            Some(wrong) => {
                // It holds locks that telling the schedule needs.
                drop(execution);
                self.broken(&wrong)
            }
            None => self.follow(execution),
        };
        self.known.insert(digest, schedules);
        schedules
    }

    fn follow(&mut self, execution: Execution) -> u128 {
        let moves = moves(&execution, self.world.deaths());
        if moves.is_empty() {
            self.explored.ends += 1;
            return match self.world.wrong_at_end(execution) {
                Some(wrong) => self.broken(&wrong),
                None => 1,
            };
        }
        let mut schedules = 0;
        // The first branch goes on with this execution, the others start again.
        let mut present = Some(execution);
        for next in moves {
            let mut execution = present.take().unwrap_or_else(|| self.replay());
            execution.make(next);
            self.path.push(next);
            schedules += self.visit(execution);
            self.path.pop();
        }
        schedules
    }

    fn replay(&self) -> Execution {
        let mut execution = self.world.begin();
        self.path.iter().for_each(|next| execution.make(*next));
        execution
    }

    fn broken(&mut self, wrong: &str) -> u128 {
        self.explored.broken_states += 1;
        if self.explored.broken.len() < 3 {
            let told = tell(self.world, &self.path);
            self.explored.broken.push(format!("{wrong}\n{told}"));
        }
        1
    }
}

fn moves(execution: &Execution, deaths: usize) -> Vec<Move> {
    let dead = execution.processes.iter().filter(|p| matches!(p.end, Some(End::Dead))).count();
    let running = || execution.processes.iter().enumerate().filter(|(_, p)| p.work.is_some()).map(|(at, _)| at);
    let crashes = running().filter(|_| dead < deaths);
    running().map(Move::Step).chain(crashes.map(Move::Crash)).collect()
}

/// A schedule, step by step.
fn tell(world: &dyn World, path: &[Move]) -> String {
    let mut execution = world.begin();
    let mut lines = Vec::new();
    for next in path {
        execution.make(*next);
        lines.push(match next {
            Move::Step(at) => format!("  process {at}: {}", execution.processes[*at].actor.last()),
            Move::Crash(at) => format!("  process {at} dies"),
        });
    }
    lines.join("\n")
}

/// Runs `count` schedules drawn from `seed`, without leaving anything out; returns what went wrong.
pub fn draw(world: &dyn World, count: usize, mut seed: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    for _ in 0..count {
        let mut execution = world.begin();
        let mut path = Vec::new();
        loop {
            let moves = moves(&execution, world.deaths());
            if moves.is_empty() {
                wrong.extend(world.wrong_at_end(execution).map(|w| format!("{w}\n{}", tell(world, &path))));
                break;
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let drawn = (seed >> 33) as usize;
            // Deaths are rare, else few schedules get far.
            let steps = moves.iter().filter(|m| matches!(m, Move::Step(_))).count();
            let next =
                if drawn.is_multiple_of(16) { moves[drawn / 16 % moves.len()] } else { moves[drawn / 16 % steps] };
            execution.make(next);
            path.push(next);
            if let Some(found) = world.wrong_now(&execution, &execution.store.contents()) {
                drop(execution);
                wrong.push(format!("{found}\n{}", tell(world, &path)));
                break;
            }
        }
    }
    wrong
}
