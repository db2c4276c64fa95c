//! The records in answers, with their versions. Programs that use the API read the same types.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::version::etag;
use crate::{
    administration::RecordPage,
    policy::{Account, Credential, RelayPolicy, ServiceKey, Token},
    store::Stored,
};

/// Defines the answer with one record of a type, and the answer with a page of them.
macro_rules! answers {
    ($record:ident, $stored:ident, $page:ident) => {
        /// A record with its version.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub struct $stored {
            /// The record.
            pub record: $record,
            /// The version, which is also the `ETag` of the record.
            pub changed: i64,
        }

        impl From<Stored<$record>> for $stored {
            fn from(stored: Stored<$record>) -> Self {
                $stored {
                    record: stored.record,
                    changed: stored.changed,
                }
            }
        }

        impl Versioned for $stored {
            fn version(&self) -> i64 {
                self.changed
            }
        }

        /// A page of records.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub struct $page {
            /// The records in the order of the list.
            pub items: Vec<$stored>,
            /// The `after` of the next page. Absent at the last page.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub next: Option<String>,
        }

        impl From<RecordPage<$record>> for $page {
            fn from(page: RecordPage<$record>) -> Self {
                $page {
                    items: page.items.into_iter().map($stored::from).collect(),
                    next: page.next,
                }
            }
        }

        impl IntoResponse for $page {
            fn into_response(self) -> Response {
                Json(self).into_response()
            }
        }
    };
}

answers!(Account, StoredAccount, AccountPage);
answers!(Credential, StoredCredential, CredentialPage);
answers!(ServiceKey, StoredKey, KeyPage);
answers!(Token, StoredToken, TokenPage);

/// The policy of the relay with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredRelay {
    /// The policy.
    pub record: RelayPolicy,
    /// The version, which is also the `ETag` of the policy.
    pub changed: i64,
}

impl From<Stored<RelayPolicy>> for StoredRelay {
    fn from(stored: Stored<RelayPolicy>) -> Self {
        StoredRelay {
            record: stored.record,
            changed: stored.changed,
        }
    }
}

impl Versioned for StoredRelay {
    fn version(&self) -> i64 {
        self.changed
    }
}

/// An answer with one record.
pub(super) trait Versioned: Serialize {
    /// Returns the version of the record.
    fn version(&self) -> i64;
}

/// Returns the answer with a record.
pub(super) fn found(record: impl Versioned) -> Response {
    let tag = [(header::ETAG, etag(record.version()))];
    (tag, Json(record)).into_response()
}

/// Returns the answer with a new record, whose path is `location`.
pub(super) fn created(record: impl Versioned, location: &str) -> Response {
    let mut response = found(record);
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
