//! `gantry bench`: hands over to the load generator.
//!
//! **Owns** nothing.
//! **Lives on** the main thread.
//! **Invariants** the arguments reach the load generator as they were typed.
//! **Limits** none of its own.
//! **Not here** scenarios and their options (`gantry_bench`).

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(words: &[String]) -> Result<(), String> {
    gantry_bench::run(words, env!("GANTRY_COMMIT")).map_err(|error| error.to_string())
}
