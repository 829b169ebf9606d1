use mlx_train::register_model;

#[register_model("model", aliasses = ["net"])]
struct Model;

fn main() {}
