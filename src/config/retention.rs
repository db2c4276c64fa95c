//! How long a master keeps the past in its database.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bounded::CountIn,
    document::RoleChecks,
    error::{FieldPath, InvalidValue},
};

/// How many days the `store` keeps the past. The finest steps are the first to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "an object, {\"minutes\": DAYS, …}"
)]
pub struct RetentionConfig {
    /// The days of usage by the minute. A subject that is always busy keeps fewer minutes: its usage
    /// takes 14 KiB at most.
    pub minutes: CountIn<14, 2>,
    /// The days of usage by the hour, at least those of `minutes`.
    pub hours: CountIn<366, 60>,
    /// The days of usage by the day, at least those of `hours`.
    pub days: CountIn<3_660, 730>,
    /// The days of the audit log, which has 200,000 events at most.
    pub audit: CountIn<3_660, 90>,
}

impl RetentionConfig {
    /// Checks the rules between fields.
    pub(super) fn check(&self, has_store: bool, checks: &mut RoleChecks<'_>) {
        let path = FieldPath::root("retention");
        if !has_store && *self != RetentionConfig::default() {
            let invalid = InvalidValue::new(
                "is set, which needs `store`",
                "add the address of a database as `store`, or remove it",
            );
            checks.invalid(&path, invalid);
            return;
        }
        let steps = [
            ("hours", *self.hours, "minutes", *self.minutes),
            ("days", *self.days, "hours", *self.hours),
        ];
        for (field, days, finer, finer_days) in steps {
            if days < finer_days {
                let invalid = InvalidValue::new(
                    format!("is {days}, less than the {finer_days} of `{finer}`"),
                    format!("write at least {finer_days}, or less for `{finer}`"),
                );
                checks.invalid(&path.field(field), invalid);
            }
        }
    }
}
