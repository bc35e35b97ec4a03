//! The faces over the network: Flight SQL and HTTP.
