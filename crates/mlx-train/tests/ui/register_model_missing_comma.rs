use mlx_train::register_model;

#[register_model("model" tags = ["vision"])]
struct Model;

fn main() {}
