//! What a policy is refused for.

/// What a checkpointing policy is refused for, with the value and the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A text that is no policy.
    #[error(
        "`{text}` is no checkpointing policy ({reason}); write `none`, `full`, `every=2`, `layers=[0,3]`, \
         `selective=[mlp,attention]` or `auto=12 GiB`"
    )]
    Text {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A selective policy that names a part that the model does not have.
    #[error("the checkpointing policy `{policy}` names a part `{name}`, which never ran; {known}")]
    UnknownPart {
        /// The policy.
        policy: String,
        /// The part.
        name: String,
        /// The parts that ran, in words.
        known: String,
    },
    /// A policy that names a block behind the last.
    #[error(
        "the checkpointing policy `{policy}` names block {index}, but the deepest stack of the model has \
         {num_blocks} blocks, counted from 0"
    )]
    NoSuchBlock {
        /// The policy.
        policy: String,
        /// The block.
        index: usize,
        /// How many blocks there are.
        num_blocks: usize,
    },
    /// A policy for the blocks of a model that has none.
    #[error(
        "the checkpointing policy `{policy}` is for the blocks of a `Stack`, and the model ran none: keep its \
         blocks in one, or set the policy to `none`"
    )]
    NoStack {
        /// The policy.
        policy: String,
    },
    /// A policy that was to be chosen by the memory that there is, and was not.
    #[error(
        "the checkpointing policy `{policy}` stands for another one, which is chosen before the first step; a \
         loop of your own chooses one itself"
    )]
    Unresolved {
        /// The policy.
        policy: String,
    },
}
