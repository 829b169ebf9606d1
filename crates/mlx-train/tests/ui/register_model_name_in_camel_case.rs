use mlx_train::register_model;

#[register_model("CustomTransformer")]
struct Model;

fn main() {}
