//! The listener of the admin address, which a reload may replace.

use std::future::pending;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use crate::{
    admin::{AdminListener, AdminService},
    config::AdminConfig,
    master::MasterHandle,
};

/// A request to serve another listener, or none.
struct SwitchRequest {
    listener: Option<AdminListener>,
    /// The former listener is closed.
    done: oneshot::Sender<()>,
}

/// Replaces the listener of the admin address.
pub(super) struct AdminSwitch {
    service: AdminService,
    master: Option<MasterHandle>,
    requests: mpsc::Sender<SwitchRequest>,
}

/// Serves the admin address.
pub(super) struct AdminServer {
    service: AdminService,
    master: Option<MasterHandle>,
    listener: Option<AdminListener>,
    requests: mpsc::Receiver<SwitchRequest>,
}

/// Creates the two ends for a role with this content of the admin address. `listener` is the first
/// one.
pub(super) fn admin_switch(
    service: AdminService,
    master: Option<&MasterHandle>,
    listener: Option<AdminListener>,
) -> (AdminSwitch, AdminServer) {
    // One at a time: each request is awaited.
    let (sender, receiver) = mpsc::channel(1);
    let switch = AdminSwitch {
        service: service.clone(),
        master: master.cloned(),
        requests: sender,
    };
    switch.pass_on(listener.as_ref());
    let server = AdminServer {
        service,
        master: master.cloned(),
        listener,
        requests: receiver,
    };
    (switch, server)
}

impl AdminSwitch {
    /// Opens the listener of a changed configuration, unless its address is that of the former one.
    /// `None`: the present listener must close first.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub(super) async fn prepare(
        &self,
        old: Option<&AdminConfig>,
        new: Option<&AdminConfig>,
    ) -> anyhow::Result<Option<AdminListener>> {
        let has_same_address = old.map(|old| &old.listen_at) == new.map(|new| &new.listen_at);
        match new {
            Some(new) if !has_same_address => self.bind(new).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Serves the prepared listener, or opens that of `new` after the former one has closed.
    ///
    /// # Errors
    /// When the address cannot be used. The process then has no admin address.
    pub(super) async fn commit(
        &self,
        prepared: Option<AdminListener>,
        new: Option<&AdminConfig>,
    ) -> anyhow::Result<()> {
        if let Some(listener) = prepared {
            self.switch(Some(listener)).await;
            return Ok(());
        }
        self.switch(None).await;
        if let Some(new) = new {
            let listener = self.bind(new).await;
            let listener = listener.context("the admin address is closed now")?;
            self.switch(Some(listener)).await;
        }
        Ok(())
    }

    async fn bind(&self, config: &AdminConfig) -> anyhow::Result<AdminListener> {
        let listener = AdminListener::bind(config)?;
        listener.check(&self.service).await?;
        Ok(listener)
    }

    async fn switch(&self, listener: Option<AdminListener>) {
        self.pass_on(listener.as_ref());
        let (done, is_done) = oneshot::channel();
        let request = SwitchRequest { listener, done };
        if self.requests.send(request).await.is_ok() {
            // The server ends with the process.
            let _ = is_done.await;
        }
    }

    /// Lets a restart pass this listener on. Without it, a new process cannot bind the address, and
    /// says so.
    fn pass_on(&self, listener: Option<&AdminListener>) {
        if let Some(master) = &self.master {
            let passed = listener.and_then(|listener| listener.passed().unwrap_or_default());
            master.set_admin_listener(passed);
        }
    }
}

impl AdminServer {
    /// Serves the admin address, if there is one, until a new process has taken over from the master.
    /// Never returns.
    pub(super) async fn serve(mut self) {
        loop {
            let (listener, service) = (self.listener.take(), self.service.clone());
            let serving = async move {
                match listener {
                    Some(listener) => listener.serve(service).await,
                    None => pending().await,
                }
            };
            let request = tokio::select! {
                () = serving => None,
                () = retired(self.master.as_ref()) => None,
                request = self.requests.recv() => request,
            };
            let Some(SwitchRequest { listener, done }) = request else {
                return pending().await;
            };
            self.listener = listener;
            let _ = done.send(());
        }
    }
}

async fn retired(master: Option<&MasterHandle>) {
    match master {
        Some(master) => master.retired().await,
        None => pending().await,
    }
}
