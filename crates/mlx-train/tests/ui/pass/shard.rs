//! A user's model is divided among ranks by its attributes alone.

use mlx_train::{
    distributed::{Group, Sharding, SplitBy, way},
    model,
    prelude::*,
};

/// Heads that share nothing.
#[derive(Debug, Clone, ModuleParameters, Shard)]
struct Attention {
    #[param]
    #[shard(columns)]
    queries: Linear,
    #[param(rename = "o_proj")]
    #[shard(rows)]
    output: Linear,
    #[shard(divide)]
    num_heads: usize,
    #[shard(divide)]
    dropout: Dropout,
}

/// Generic over what is in it.
#[derive(Debug, Clone, ModuleParameters, Shard)]
struct Residual<M, H>(
    #[param]
    #[shard]
    M,
    #[param]
    #[shard(columns)]
    Option<H>,
);

/// A layer with a way of its own: experts, of which each rank has some.
#[derive(Debug, Clone, ModuleParameters)]
struct Experts {
    #[param]
    weights: Param<Array>,
    group: Option<Group>,
}

impl Shard for Experts {
    fn shard(&mut self, sharding: &mut Sharding<'_>) {
        sharding.split("weights", 0, 4);
        sharding.keep(&mut self.group);
    }
}

impl SplitBy<way::Alternating> for Experts {
    fn split(&mut self, sharding: &mut Sharding<'_>) {
        sharding.needs_whole();
    }
}

#[derive(Debug, ModuleParameters, Shard)]
struct Model {
    #[param]
    #[shard(vocabulary)]
    tokens: Embedding,
    #[param]
    #[shard]
    blocks: Stack<Residual<Attention, Linear>>,
    #[param]
    #[shard]
    experts: Option<Box<Experts>>,
    #[param]
    #[shard(alternating)]
    mlp: Vec<Linear>,
    #[param]
    norm: RmsNorm,
    #[param]
    #[shard(vocabulary)]
    head: Linear,
}

impl BaseModel for Model {
    fn forward(&mut self, x: &Array) -> Result<Array> {
        Ok(self.head.forward(&self.tokens.forward(x)?)?)
    }

    fn loss_fn(&mut self, x: &Array, y: &Array) -> Result<Loss> {
        let x = self.tokens.forward(x)?;
        Ok(self.head.head()?.cross_entropy(&x, y, &CrossEntropy::default())?.0)
    }

    fn as_shard(&mut self) -> Option<&mut dyn Shard> {
        Some(self)
    }
}

fn main() -> Result<()> {
    let attention = || -> Result<Attention> {
        let (queries, output) = (Linear::new(8, 16)?, Linear::new(16, 8)?);
        Ok(Attention { queries, output, num_heads: 4, dropout: Dropout::new(0.1)? })
    };
    let block = |_| Ok(Residual(attention()?, Some(Linear::new(8, 12)?)));
    let experts = Experts { weights: Param::new(Array::zeros::<f32>(&[4, 2])?), group: None };
    let mut model = Model {
        tokens: Embedding::new(32, 8)?,
        blocks: (0..2).map(block).collect::<Result<_>>()?,
        experts: Some(Box::new(experts)),
        mlp: vec![Linear::new(8, 32)?, Linear::new(32, 8)?],
        norm: RmsNorm::new(8)?,
        head: Linear::new(8, 32)?,
    };
    let splits = model::splits(&mut model, 4)?;
    let expected = [
        ("blocks.0.0.o_proj.weight", 1),
        ("blocks.0.0.queries.bias", 0),
        ("blocks.0.0.queries.weight", 0),
        ("blocks.0.1.bias", 0),
        ("blocks.0.1.weight", 0),
        ("blocks.1.0.o_proj.weight", 1),
        ("blocks.1.0.queries.bias", 0),
        ("blocks.1.0.queries.weight", 0),
        ("blocks.1.1.bias", 0),
        ("blocks.1.1.weight", 0),
        ("experts.weights", 0),
        ("head.bias", 0),
        ("head.weight", 0),
        ("mlp.0.bias", 0),
        ("mlp.0.weight", 0),
        ("mlp.1.weight", 1),
        ("tokens.weight", 0),
    ];
    assert_eq!(splits.iter().collect::<Vec<_>>(), expected);
    assert_eq!(model.blocks.get(0).map(|block| block.0.num_heads), Some(4));

    let refused = model::splits(&mut model, 8).unwrap_err().to_string();
    assert!(refused.contains("`blocks.*.*.num_heads` is 4 (2 times)"), "{refused}");
    assert!(refused.contains("axis 0 of `experts.weights` is 4"), "{refused}");
    Ok(())
}
