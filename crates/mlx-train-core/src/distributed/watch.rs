//! Deadlines for what waits for other processes.
//!
//! A collective waits inside of MLX until every rank takes part. When one of them has stopped, nothing in this
//! process can end that wait, so the process ends: whoever started the ranks then ends the others.

use super::DistributedError;
use crate::{Result, ffi};
use std::{
    env,
    io::{Write, stderr},
    mem::forget,
    os::unix::process::parent_id,
    sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The exit status of a process whose deadline has passed: `EX_TEMPFAIL` of `sysexits.h`, since another
/// attempt may succeed.
pub const DEADLINE_EXIT_STATUS: i32 = 75;

/// The variable in which a launcher tells ranks its process id: they end when it does.
pub const LAUNCHER: &str = "MLX_TRAIN_LAUNCHER";

/// How often a rank looks whether its launcher is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Ends the process when something takes longer than it may.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What is waited for, and until when. A later one is inside of an earlier one.
    waits: Vec<Wait>,
    next_id: u64,
    is_over: bool,
}

#[derive(Debug)]
struct Wait {
    id: u64,
    until: Instant,
    message: String,
}

/// Something that has to end in time, which it does when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Deadline {
    shared: Arc<Shared>,
    id: u64,
}

impl Watch {
    /// Starts the thread that watches.
    pub(super) fn new() -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new().name("mlx-train deadlines".into());
        thread.spawn(move || watched.run()).map_err(|error| {
            crate::Error::message(format!(
                "the system has no thread for deadlines to spare: {error}"
            ))
        })?;
        Ok(Self { shared })
    }

    /// Ends the process with [`DEADLINE_EXIT_STATUS`] after `limit`, unless what is returned is dropped before.
    ///
    /// `who` is waiting for `what`, as in `rank 0` and `the gradients of all ranks`.
    pub(super) fn limit(&self, who: &str, what: &str, limit: Duration) -> Result<Deadline> {
        let now = Instant::now();
        let until = now.checked_add(limit).filter(|until| *until > now);
        let until = until.ok_or(DistributedError::Limit { limit })?;
        let message = format!(
            "{who} has waited {} s for {what}; another rank has died, is stopped or computes something else\n",
            limit.as_secs_f64()
        );
        let mut state = self.shared.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.waits.push(Wait { id, until, message });
        drop(state);
        self.shared.changed.notify_one();
        Ok(Deadline { shared: Arc::clone(&self.shared), id })
    }
}

/// What the end of this process waits for.
struct Farewell {
    watch: Arc<Watch>,
    who: String,
    limit: Duration,
}

/// That of the group which was joined last.
static FAREWELL: Mutex<Option<Farewell>> = Mutex::new(None);

/// Ends the process when its own end takes longer than `limit`: MPI waits there until all ranks have come, also where
/// one has failed and the others wait for it elsewhere.
pub(super) fn limit_exit(watch: &Arc<Watch>, who: String, limit: Duration) -> Result<()> {
    static REGISTERED: Once = Once::new();
    let mut outcome = Ok(());
    REGISTERED.call_once(|| outcome = ffi::at_exit(begin_exit));
    let farewell = Farewell { watch: Arc::clone(watch), who, limit };
    *FAREWELL.lock().unwrap_or_else(PoisonError::into_inner) = Some(farewell);
    outcome
}

extern "C" fn begin_exit() {
    let farewell = FAREWELL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Farewell { watch, who, limit }) = farewell.as_ref()
        && let Ok(deadline) = watch.limit(who, "all ranks to end", *limit)
    {
        // It holds until the process is no more.
        forget(deadline);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.shared.lock().waits.retain(|wait| wait.id != self.id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A list of waits is whole whatever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let launcher = launcher();
        let mut state = self.lock();
        while !state.is_over {
            if launcher.is_some() && launcher != Some(parent_id()) {
                end("the launcher of this rank has died, and so does the rank\n");
            }
            let now = Instant::now();
            if let Some(late) = state.waits.iter().find(|wait| wait.until <= now) {
                end(&late.message);
            }
            let look = if launcher.is_some() { LOOK } else { Duration::from_hours(1) };
            let next = state.waits.iter().map(|wait| wait.until - now).min();
            let waited = self.changed.wait_timeout(state, next.map_or(look, |next| next.min(look)));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The process that started this one, if it is a launcher.
fn launcher() -> Option<u32> {
    let told: u32 = env::var(LAUNCHER).ok()?.parse().ok()?;
    // A script may have started the rank, and lives on until it has ended.
    (told == parent_id()).then_some(told)
}

/// Ends the process without waiting for anything: MLX's threads would wait for ever.
fn end(message: &str) -> ! {
    // Nobody is left to tell that the message could not be written.
    drop(stderr().write_all(message.as_bytes()));
    signal_hook::low_level::exit(DEADLINE_EXIT_STATUS)
}
