use mlx_train::register_model;

#[register_model("model", tags = ["a"], tags = ["b"])]
struct Model;

fn main() {}
