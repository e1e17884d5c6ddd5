//! State resolution against independent implementations on random rooms, the
//! cases that tell the versions apart, and rooms that mean harm.

mod by_ruma;
mod by_text;
mod cases;
mod graph;
mod hostile;
mod random;
mod resets;
mod room;
