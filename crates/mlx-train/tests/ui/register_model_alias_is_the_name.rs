use mlx_train::register_model;

#[register_model("model", aliases = ["model"])]
struct Model;

fn main() {}
