//! What the master reports about itself: its readiness and its metrics.

use std::{fmt, sync::Arc};

use super::shared::MasterShared;
use crate::metrics::{MetricFamilies, ObservedRole};

/// The master as its admin address reports it.
pub(super) struct MasterObserver(pub(super) Arc<MasterShared>);

impl ObservedRole for MasterObserver {
    fn name(&self) -> &'static str {
        "master"
    }

    fn missing(&self) -> Vec<String> {
        // Its listeners are bound, and accept links until the drain begins.
        if self.0.draining.is_cancelled() {
            vec!["the master is draining".to_owned()]
        } else {
            Vec::new()
        }
    }

    fn describe(&self, _families: &mut MetricFamilies<'_>) -> fmt::Result {
        Ok(())
    }
}
