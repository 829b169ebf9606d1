//! A schedule with the messages between its stages: what each stage does, one thing after the other.
//!
//! A message between two stages may block both until it has passed. It never does so for ever, as all stages handle
//! their messages in one common order: that in which they would be ready if each stage took the same time.

use super::schedule::{Operation, Schedule};
use std::{
    collections::HashMap,
    iter::{Peekable, from_fn},
    vec::IntoIter,
};

/// What passes between neighbouring stages for one micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    /// The output of a stage, for the next one.
    Activation(usize),
    /// The gradient of a stage's input, for the one before.
    Gradient(usize),
}

/// What a stage does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Begins to receive.
    Receive(Message),
    /// Computes, once what that needs has been received.
    Compute(Operation),
    /// Begins to send.
    Send(Message),
}

/// When a message is ready, and at which stage: its place in the common order.
type Place = (usize, usize);

/// A message of one stage.
#[derive(Debug, Clone, Copy)]
struct Passing {
    place: Place,
    action: Action,
    /// Which of the stage's operations makes it or needs it.
    operation: usize,
}

impl Passing {
    fn is_received(&self) -> bool {
        matches!(self.action, Action::Receive(_))
    }
}

/// What a stage does in a step, messages included.
pub(crate) fn actions(schedule: &Schedule, stage: usize) -> Vec<Action> {
    let operations = schedule.operations(stage);
    let mut passing = messages(schedule, stage).into_iter().peekable();
    let mut actions = Vec::new();
    for (index, &operation) in operations.iter().enumerate() {
        actions.extend(through(&mut passing, |it| it.operation == index && it.is_received()));
        // What the next operation needs comes while this one computes.
        let is_next = |it: &Passing| it.operation == index + 1 && it.is_received();
        actions.extend(from_fn(|| passing.next_if(is_next)).map(|it| it.action));
        actions.push(Action::Compute(operation));
        // What was made goes at once, after what is before it in the common order.
        actions.extend(through(&mut passing, |it| it.operation == index));
    }
    actions
}

/// Takes the messages up to the first one that `is_last`; none if there is no such one.
fn through(
    passing: &mut Peekable<IntoIter<Passing>>,
    is_last: impl FnMut(Passing) -> bool,
) -> Vec<Action> {
    let count = passing.clone().position(is_last).map_or(0, |last| last + 1);
    passing.by_ref().take(count).map(|it| it.action).collect()
}

/// The messages of a stage in the common order.
fn messages(schedule: &Schedule, stage: usize) -> Vec<Passing> {
    let ready = ready(schedule);
    let last = schedule.num_stages() - 1;
    let mut messages = Vec::new();
    for (operation, &it) in schedule.operations(stage).iter().enumerate() {
        let (from, to, message) = match it {
            Operation::Forward(index) => (
                stage.checked_sub(1),
                (stage < last).then_some(stage + 1),
                Message::Activation(index),
            ),
            Operation::Backward(index) => (
                (stage < last).then_some(stage + 1),
                stage.checked_sub(1),
                Message::Gradient(index),
            ),
        };
        let passing = |place, action| Passing { place, action, operation };
        if let Some(from) = from {
            let time = ready.get(&(from, it)).copied().unwrap_or_default();
            messages.push(passing((time, from), Action::Receive(message)));
        }
        if to.is_some() {
            let time = ready.get(&(stage, it)).copied().unwrap_or_default();
            messages.push(passing((time, stage), Action::Send(message)));
        }
    }
    messages.sort_by_key(|it| it.place);
    messages
}

/// When each operation of each stage ends, where a backward pass takes twice as long as a forward pass.
fn ready(schedule: &Schedule) -> HashMap<(usize, Operation), usize> {
    let last = schedule.num_stages() - 1;
    let mut ended = HashMap::new();
    let mut next = vec![(0, 0); schedule.num_stages()];
    loop {
        let mut has_moved = false;
        for (stage, (index, time)) in next.iter_mut().enumerate() {
            while let Some(&operation) = schedule.operations(stage).get(*index) {
                let (needed, duration) = match operation {
                    Operation::Forward(_) => (stage.checked_sub(1), 1),
                    Operation::Backward(_) => ((stage < last).then_some(stage + 1), 2),
                };
                let arrived = match needed {
                    None => Some(0),
                    Some(from) => ended.get(&(from, operation)).copied(),
                };
                let Some(arrived) = arrived else { break };
                *time = arrived.max(*time) + duration;
                ended.insert((stage, operation), *time);
                *index += 1;
                has_moved = true;
            }
        }
        if !has_moved {
            return ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::ScheduleKind;
    use proptest::prelude::*;

    /// Runs stages that do one thing after the other, where a message passes when both of its ends have come to it
    /// and nothing else; whether all of them end.
    fn ends_with_blocking_messages(programs: &[Vec<Action>]) -> bool {
        let mut at = vec![0; programs.len()];
        loop {
            let mut has_moved = false;
            for stage in 0..programs.len() {
                let Some(&action) = programs[stage].get(at[stage]) else { continue };
                let (peer, theirs) = match action {
                    Action::Compute(_) => {
                        at[stage] += 1;
                        has_moved = true;
                        continue;
                    }
                    Action::Receive(_) => continue,
                    Action::Send(Message::Activation(index)) => {
                        (stage + 1, Action::Receive(Message::Activation(index)))
                    }
                    Action::Send(Message::Gradient(index)) => {
                        (stage - 1, Action::Receive(Message::Gradient(index)))
                    }
                };
                if programs[peer].get(at[peer]) == Some(&theirs) {
                    at[stage] += 1;
                    at[peer] += 1;
                    has_moved = true;
                }
            }
            if !has_moved {
                return at.iter().zip(programs).all(|(at, program)| *at == program.len());
            }
        }
    }

    fn programs(kind: ScheduleKind, num_stages: usize, count: usize) -> Vec<Vec<Action>> {
        let schedule = Schedule::new(kind, num_stages, count);
        (0..num_stages).map(|stage| actions(&schedule, stage)).collect()
    }

    proptest! {
        #[test]
        fn no_stage_waits_for_ever_even_where_every_message_blocks_both_ends(
            is_gpipe: bool, num_stages in 1..9_usize, count in 1..20_usize,
        ) {
            let kind = if is_gpipe { ScheduleKind::Gpipe } else { ScheduleKind::default() };
            prop_assert!(ends_with_blocking_messages(&programs(kind, num_stages, count)));
        }

        #[test]
        fn what_is_computed_has_been_received_and_what_is_sent_has_been_computed(
            is_gpipe: bool, num_stages in 1..9_usize, count in 1..20_usize,
        ) {
            let kind = if is_gpipe { ScheduleKind::Gpipe } else { ScheduleKind::default() };
            for (stage, program) in programs(kind, num_stages, count).iter().enumerate() {
                let place = |action| program.iter().position(|it| *it == action);
                let (is_first, is_last) = (stage == 0, stage + 1 == num_stages);
                for index in 0..count {
                    let forward = place(Action::Compute(Operation::Forward(index)));
                    let backward = place(Action::Compute(Operation::Backward(index)));
                    let (activation, gradient) = (Message::Activation(index), Message::Gradient(index));
                    for (expected, earlier, later) in [
                        (!is_first, place(Action::Receive(activation)), forward),
                        (!is_last, forward, place(Action::Send(activation))),
                        (!is_last, place(Action::Receive(gradient)), backward),
                        (!is_first, backward, place(Action::Send(gradient))),
                    ] {
                        prop_assert_eq!(expected, earlier.is_some() && later.is_some());
                        prop_assert!(!expected || earlier < later);
                    }
                }
                let num_messages = 2 * count * (usize::from(!is_first) + usize::from(!is_last));
                prop_assert_eq!(program.len(), 2 * count + num_messages);
            }
        }
    }

    #[test]
    fn the_simulation_finds_stages_that_send_to_each_other_first() {
        let (activation, gradient) = (Message::Activation(0), Message::Gradient(0));
        let first = vec![Action::Send(activation), Action::Receive(gradient)];
        let second = vec![Action::Send(gradient), Action::Receive(activation)];
        assert!(!ends_with_blocking_messages(&[first, second]));
    }
}
