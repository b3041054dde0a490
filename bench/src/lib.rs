//! The load generator behind `gantry bench`.
