//! Which parts of a model are checkpointed.

use super::PolicyError;
use crate::{
    bytes::Bytes,
    config::{private::Reader, text_field},
};
use std::{fmt, str::FromStr};

/// Which parts of a model forget what they computed until their gradient is due.
///
/// In configs and on command lines it is a text, that of `Display`.
///
/// ```
/// use mlx_train_core::checkpoint::CheckpointPolicy;
/// for text in ["none", "full", "every=2", "layers=[0,3]", "selective=[mlp,attention]", "auto=12 GiB"] {
///     assert_eq!(text.parse::<CheckpointPolicy>()?.to_string(), text);
/// }
/// # Ok::<(), mlx_train_core::checkpoint::PolicyError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum CheckpointPolicy {
    /// Nothing is checkpointed: the fastest, and the most memory.
    #[default]
    None,
    /// Every block of every [`Stack`](crate::nn::Stack) is: the least memory.
    Full,
    /// Every so many blocks one is: those whose position is a multiple of the number, which is positive.
    Every(usize),
    /// The blocks at these positions are.
    Layers(Vec<usize>),
    /// The parts of these names are, wherever [`part`](super::part) marks one.
    Selective(Vec<String>),
    /// The one of least cost whose estimate fits in so much memory. It stands for another policy, which is
    /// chosen before the first step.
    Auto(Bytes),
}

impl CheckpointPolicy {
    /// Whether the block at `index` of a stack is checkpointed as a whole.
    pub(super) fn takes_block(&self, index: usize) -> bool {
        match self {
            Self::Full => true,
            Self::Every(number) => index.is_multiple_of(*number),
            Self::Layers(indices) => indices.contains(&index),
            Self::None | Self::Selective(_) | Self::Auto(_) => false,
        }
    }
}

impl fmt::Display for CheckpointPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Full => f.pad("full"),
            Self::Every(number) => f.pad(&format!("every={number}")),
            Self::Layers(indices) => {
                let indices: Vec<String> = indices.iter().map(usize::to_string).collect();
                f.pad(&format!("layers=[{}]", indices.join(",")))
            }
            Self::Selective(names) => f.pad(&format!("selective=[{}]", names.join(","))),
            Self::Auto(bytes) => f.pad(&format!("auto={}", bytes.exact())),
        }
    }
}

impl FromStr for CheckpointPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        parse(text.trim()).map_err(|reason| PolicyError::Text { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<CheckpointPolicy, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim())),
        None => (text, None),
    };
    let needed = || value.ok_or_else(|| format!("`{name}` needs a value"));
    match name {
        "none" | "full" if value.is_some() => Err(format!("`{name}` takes no value")),
        "none" => Ok(CheckpointPolicy::None),
        "full" => Ok(CheckpointPolicy::Full),
        "every" => match position(needed()?)? {
            0 => Err("every 0 blocks is never; `none` is that".into()),
            number => Ok(CheckpointPolicy::Every(number)),
        },
        "layers" => {
            let indices = items(needed()?)?.into_iter().map(position);
            Ok(CheckpointPolicy::Layers(indices.collect::<Result<_, _>>()?))
        }
        "selective" => {
            let names = items(needed()?)?.into_iter().map(|name| name.trim_matches(['"', '\'']));
            Ok(CheckpointPolicy::Selective(names.map(str::to_owned).collect()))
        }
        "auto" => {
            let bytes = needed()?.parse().map_err(|refused| format!("{refused}"))?;
            Ok(CheckpointPolicy::Auto(bytes))
        }
        _ => Err("there is no policy of this name".into()),
    }
}

/// What is between the brackets of a list of one or more, by commas.
fn items(text: &str) -> Result<Vec<&str>, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let inner = inner.ok_or_else(|| format!("`{text}` is no list in brackets"))?;
    let items: Vec<&str> = inner.split(',').map(str::trim).collect();
    if items.contains(&"") {
        return Err(format!("`{text}` has an empty place"));
    }
    Ok(items)
}

fn position(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is no number of blocks"))
}

text_field!(CheckpointPolicy, ToString::to_string, {
    /// A policy of a program may be one that has no text: of no blocks, say.
    fn cross_check(&self, reader: &mut Reader) {
        reader.check_result(self.to_string().parse::<Self>().map(|_| ()));
    }
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn policies() -> impl Strategy<Value = CheckpointPolicy> {
        prop_oneof![
            Just(CheckpointPolicy::None),
            Just(CheckpointPolicy::Full),
            (1..usize::MAX).prop_map(CheckpointPolicy::Every),
            vec(any::<usize>(), 1..5).prop_map(CheckpointPolicy::Layers),
            vec("[a-z][a-z0-9_.]{0,8}", 1..4).prop_map(CheckpointPolicy::Selective),
            any::<u64>().prop_map(|bytes| CheckpointPolicy::Auto(Bytes(bytes))),
        ]
    }

    proptest! {
        #[test]
        fn the_text_of_a_policy_is_read_as_the_same_policy(policy in policies()) {
            prop_assert_eq!(policy.to_string().parse(), Ok(policy));
        }
    }

    #[test]
    fn spaces_and_quotes_do_not_count() {
        let read = |text: &str| text.parse::<CheckpointPolicy>().unwrap();
        assert_eq!(read(" every = 2 "), CheckpointPolicy::Every(2));
        assert_eq!(read("layers = [ 0, 3 ]"), CheckpointPolicy::Layers(vec![0, 3]));
        let names = vec!["mlp".to_owned(), "attention".to_owned()];
        assert_eq!(read("selective=[\"mlp\", 'attention']"), CheckpointPolicy::Selective(names));
        assert_eq!(read("auto=1.5GiB"), CheckpointPolicy::Auto(Bytes(3 << 29)));
    }

    #[test]
    fn a_text_that_is_no_policy_is_refused_with_what_is_wrong() {
        for (text, reason) in [
            ("fulll", "there is no policy of this name"),
            ("full=1", "`full` takes no value"),
            ("every", "`every` needs a value"),
            ("every=0", "every 0 blocks is never"),
            ("every=-2", "`-2` is no number of blocks"),
            ("layers=3", "`3` is no list in brackets"),
            ("layers=[]", "has an empty place"),
            ("selective=[mlp,]", "has an empty place"),
            ("auto=much", "`much` is no amount of memory"),
        ] {
            let error = text.parse::<CheckpointPolicy>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("every=2"), "{error}");
        }
    }
}
