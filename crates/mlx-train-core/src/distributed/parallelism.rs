//! Into how many parts a run is split, and in which ways.

use super::DistributedError;
use crate::config::text_field;
use std::{fmt, str::FromStr};

/// Into how many parts a run is split in each way; their product is the number of ranks.
///
/// In configs and on command lines it is a text, that of `Display`: `none`, or the ways that have more than one
/// part, by commas.
///
/// ```
/// use mlx_train_core::distributed::Parallelism;
/// for text in ["none", "dp=4", "fsdp=4", "tp=2", "pp=2", "dp=2,tp=2,pp=2"] {
///     assert_eq!(text.parse::<Parallelism>()?.to_string(), text);
/// }
/// assert_eq!("fsdp=4,tp=2".parse::<Parallelism>()?.num_ranks(), 8);
/// # Ok::<(), mlx_train_core::distributed::DistributedError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Parallelism {
    /// Among how many ranks the rows of a batch are divided: `dp`, or `fsdp`.
    pub data: usize,
    /// Whether these hold parts of parameters, gradients and optimizer state (`fsdp`) in place of copies (`dp`).
    pub is_sharded: bool,
    /// Among how many ranks the layers are divided that say how: `tp`.
    pub tensor: usize,
    /// Among how many ranks the blocks of the model's stack are divided: `pp`.
    pub pipeline: usize,
}

impl Parallelism {
    /// One process that does everything.
    pub const NONE: Self = Self { data: 1, is_sharded: false, tensor: 1, pipeline: 1 };

    /// `ranks` ranks with copies of the model.
    pub fn data(ranks: usize) -> Self {
        Self { data: ranks, ..Self::NONE }
    }

    /// `ranks` ranks with parts of every parameter.
    pub fn sharded(ranks: usize) -> Self {
        Self { data: ranks, is_sharded: true, ..Self::NONE }
    }

    /// `ranks` ranks with parts of the layers.
    pub fn tensor(ranks: usize) -> Self {
        Self { tensor: ranks, ..Self::NONE }
    }

    /// `ranks` ranks with some of the blocks each.
    pub fn pipeline(ranks: usize) -> Self {
        Self { pipeline: ranks, ..Self::NONE }
    }

    /// How many ranks it takes.
    pub fn num_ranks(&self) -> usize {
        self.data.saturating_mul(self.tensor).saturating_mul(self.pipeline)
    }

    /// In how many ways the run is split.
    pub fn num_ways(&self) -> usize {
        [self.data, self.tensor, self.pipeline].into_iter().filter(|&parts| parts > 1).count()
    }
}

impl Default for Parallelism {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for Parallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = if self.is_sharded { "fsdp" } else { "dp" };
        let ways = [(data, self.data), ("tp", self.tensor), ("pp", self.pipeline)];
        let ways = ways.into_iter().filter(|&(_, parts)| parts > 1);
        let ways: Vec<String> = ways.map(|(way, parts)| format!("{way}={parts}")).collect();
        f.pad(&if ways.is_empty() { "none".to_owned() } else { ways.join(",") })
    }
}

impl FromStr for Parallelism {
    type Err = DistributedError;

    fn from_str(text: &str) -> Result<Self, DistributedError> {
        parse(text)
            .map_err(|reason| DistributedError::Parallelism { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Parallelism, String> {
    let mut parallelism = Parallelism::NONE;
    if text.trim() == "none" {
        return Ok(parallelism);
    }
    let mut seen = Vec::new();
    for item in text.split(',') {
        let (way, parts) = item.split_once('=').ok_or_else(|| format!("`{item}` has no `=`"))?;
        let (way, parts) = (way.trim(), parts.trim());
        let number = parts.parse().ok().filter(|&parts: &usize| parts > 0);
        let parts = number.ok_or_else(|| format!("`{parts}` is no number of ranks"))?;
        let field = match way {
            "dp" | "fsdp" => &mut parallelism.data,
            "tp" => &mut parallelism.tensor,
            "pp" => &mut parallelism.pipeline,
            _ => return Err(format!("there is no way `{way}`")),
        };
        *field = parts;
        // One part each is a copy.
        parallelism.is_sharded |= way == "fsdp" && parts > 1;
        let way = if way == "fsdp" { "dp" } else { way };
        if seen.contains(&way) {
            return Err(match way {
                "dp" => "`dp` and `fsdp` divide the same rows; write one of them".to_owned(),
                _ => format!("`{way}` stands twice"),
            });
        }
        seen.push(way);
    }
    Ok(parallelism)
}

text_field!(Parallelism, ToString::to_string);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_text_of_a_layout_is_read_as_the_same_layout(
            data in 1..64_usize, sharded: bool, tensor in 1..16_usize, pipeline in 1..16_usize,
        ) {
            let parallelism = Parallelism { data, is_sharded: sharded && data > 1, tensor, pipeline };
            prop_assert_eq!(parallelism.to_string().parse(), Ok(parallelism));
        }
    }

    #[test]
    fn a_text_that_is_no_layout_is_refused_with_what_is_wrong() {
        for (text, reason) in [
            ("", "has no `=`"),
            ("dp", "`dp` has no `=`"),
            ("dp=0", "`0` is no number of ranks"),
            ("dp=-2", "`-2` is no number of ranks"),
            ("ddp=2", "there is no way `ddp`"),
            ("dp=2,fsdp=2", "divide the same rows"),
            ("tp=2,tp=2", "`tp` stands twice"),
        ] {
            let error = text.parse::<Parallelism>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("dp=2,tp=2"), "{error}");
        }
    }
}
