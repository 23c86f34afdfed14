//! Measures oak against the budgets of its design.
fn main() {}
