//! `[sink.x] type = "delta"`.

use serde::{Deserialize, Serialize};
