use mlx_train::register_model;

#[register_model("model")]
struct Model;

fn main() {}
