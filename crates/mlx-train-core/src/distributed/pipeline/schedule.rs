//! In which order the stages of a pipeline work on micro-batches.

use super::PipelineError;
use crate::config::text_field;
use std::{fmt, str::FromStr};

/// What a stage does with one micro-batch, which counts from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Computes the stage's output from that of the stage before.
    Forward(usize),
    /// Computes the gradients of the stage's parameters and of its input, from that of its output.
    Backward(usize),
}

/// The order in which stages work on the micro-batches of a step. Both compute the same numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ScheduleKind {
    /// One micro-batch forward, one backward, as soon as a stage has as many in flight as there are stages from it
    /// to the last: memory does not grow with the number of micro-batches. Its text is `1f1b`. Source: Narayanan et
    /// al., arXiv:2006.09503, PipeDream-Flush; arXiv:2104.04473, section 2.2.1.
    #[default]
    OneForwardOneBackward,
    /// All micro-batches forward, then all backward, with all of them in flight. Its text is `gpipe`. Source: Huang
    /// et al., arXiv:1811.06965, section 2.3.
    Gpipe,
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OneForwardOneBackward => "1f1b",
            Self::Gpipe => "gpipe",
        })
    }
}

impl FromStr for ScheduleKind {
    type Err = PipelineError;

    fn from_str(text: &str) -> Result<Self, PipelineError> {
        match text {
            "1f1b" => Ok(Self::OneForwardOneBackward),
            "gpipe" => Ok(Self::Gpipe),
            _ => Err(PipelineError::UnknownSchedule { text: text.to_owned() }),
        }
    }
}

text_field!(ScheduleKind, ToString::to_string);

/// What each stage of a pipeline does in a step, in order.
///
/// ```
/// use mlx_train_core::distributed::{Operation::{Backward, Forward}, Schedule, ScheduleKind};
/// let schedule = Schedule::new(ScheduleKind::OneForwardOneBackward, 2, 3);
/// let first = [Forward(0), Forward(1), Backward(0), Forward(2), Backward(1), Backward(2)];
/// assert_eq!(schedule.operations(0), first);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    stages: Vec<Vec<Operation>>,
}

impl Schedule {
    /// The schedule of a step of so many micro-batches.
    pub fn new(kind: ScheduleKind, num_stages: usize, num_micro_batches: usize) -> Self {
        let stage = |stage: usize| match kind {
            ScheduleKind::OneForwardOneBackward => {
                operations(num_micro_batches, (num_stages - 1 - stage).min(num_micro_batches))
            }
            ScheduleKind::Gpipe => operations(num_micro_batches, num_micro_batches),
        };
        Self { stages: (0..num_stages).map(stage).collect() }
    }

    /// How many stages there are.
    pub fn num_stages(&self) -> usize {
        self.stages.len()
    }

    /// What a stage does; nothing if there is no such stage.
    pub fn operations(&self, stage: usize) -> &[Operation] {
        self.stages.get(stage).map_or(&[], Vec::as_slice)
    }

    /// How many micro-batches a stage has computed forward and not backward yet, at most.
    pub fn max_in_flight(&self, stage: usize) -> usize {
        let (mut in_flight, mut most) = (0, 0);
        for operation in self.operations(stage) {
            match operation {
                Operation::Forward(_) => in_flight += 1,
                Operation::Backward(_) => in_flight -= 1,
            }
            most = most.max(in_flight);
        }
        most
    }

    /// The share of a step in which a stage waits, where all stages are equally fast and messages take no time:
    /// `(p - 1) / (m + p - 1)` for p stages and m micro-batches, the same in both schedules.
    ///
    /// Source: Narayanan et al., arXiv:2104.04473, section 2.2.1, as a share of the whole step.
    pub fn ideal_bubble(num_stages: usize, num_micro_batches: usize) -> f64 {
        let idle = num_stages.saturating_sub(1) as f64;
        if idle == 0.0 { 0.0 } else { idle / (num_micro_batches as f64 + idle) }
    }
}

/// The operations of a stage that computes `num_ahead` micro-batches forward before the first one backward.
fn operations(num_micro_batches: usize, num_ahead: usize) -> Vec<Operation> {
    let ahead = (0..num_ahead).map(Operation::Forward);
    let alternating = (num_ahead..num_micro_batches)
        .flat_map(|next| [Operation::Forward(next), Operation::Backward(next - num_ahead)]);
    let rest = (num_micro_batches - num_ahead..num_micro_batches).map(Operation::Backward);
    ahead.chain(alternating).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = ScheduleKind> {
        prop_oneof![Just(ScheduleKind::OneForwardOneBackward), Just(ScheduleKind::Gpipe)]
    }

    proptest! {
        #[test]
        fn every_micro_batch_is_computed_once_forward_and_then_once_backward(
            kind in kinds(), num_stages in 1..9_usize, count in 1..20_usize,
        ) {
            let schedule = Schedule::new(kind, num_stages, count);
            for stage in 0..num_stages {
                let operations = schedule.operations(stage);
                prop_assert_eq!(operations.len(), 2 * count);
                for index in 0..count {
                    let place = |wanted| operations.iter().position(|it| *it == wanted);
                    let forward = place(Operation::Forward(index));
                    prop_assert!(forward.is_some());
                    prop_assert!(forward < place(Operation::Backward(index)));
                }
            }
        }

        #[test]
        fn one_forward_one_backward_has_no_more_in_flight_than_stages_from_there_on(
            num_stages in 1..9_usize, count in 1..20_usize,
        ) {
            let schedule = Schedule::new(ScheduleKind::OneForwardOneBackward, num_stages, count);
            let gpipe = Schedule::new(ScheduleKind::Gpipe, num_stages, count);
            for stage in 0..num_stages {
                prop_assert_eq!(schedule.max_in_flight(stage), (num_stages - stage).min(count));
                prop_assert_eq!(gpipe.max_in_flight(stage), count);
            }
        }
    }

    #[test]
    fn the_text_of_a_schedule_is_read_as_the_same_schedule() {
        for kind in [ScheduleKind::OneForwardOneBackward, ScheduleKind::Gpipe] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let refused = "interleaved".parse::<ScheduleKind>().unwrap_err().to_string();
        assert!(refused.contains("`interleaved`") && refused.contains("1f1b"), "{refused}");
    }
}
