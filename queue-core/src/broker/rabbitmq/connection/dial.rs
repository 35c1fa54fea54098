//! Opens connections to the hosts that the URL names.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::connect::{self, Link};
use super::fault::Fault;
use super::hosts::Hosts;
use super::url::Target;
use crate::error::{Error, chain};

/// How long a host may take before the next one is tried beside it.
const NEXT_HOST: Duration = Duration::from_secs(2);

/// Opens connections.
pub(crate) struct Dialer {
    pub(crate) target: Target,
    /// How the target's hosts did.
    pub(crate) hosts: Hosts,
    /// The client's name. A connection's name is this and its role.
    name: String,
}

impl Dialer {
    pub(crate) fn new(target: Target, name: &str) -> Self {
        Self { hosts: Hosts::new(target.hosts.len()), target, name: name.to_owned() }
    }

    /// Opens a connection to the first host that answers, beginning with the one that last worked. One that does not answer
    /// soon is still waited for while the next is tried: a node that has frozen must not hold up the others.
    ///
    /// # Errors
    /// The one of the greatest [`Cause`](super::fault::Cause); of several such the last.
    pub(crate) async fn dial(&self, role: &str) -> Result<Link, Fault> {
        let Self { target, hosts, name } = self;
        let name = format!("{name} {role}");
        let mut left = hosts.in_order().into_iter();
        let mut opening = FuturesUnordered::new();
        let mut worst: Option<Fault> = None;
        loop {
            if let Some(at) = left.next() {
                opening.push(connect::open(target, at, &name, target.deadline));
            }
            let opened = tokio::select! {
                Some(opened) = opening.next() => opened,
                () = tokio::time::sleep(NEXT_HOST), if left.len() > 0 => continue,
                else => break,
            };
            match opened {
                Ok(link) => {
                    hosts.worked(link.at);
                    return Ok(link);
                }
                Err(fault) => {
                    tracing::debug!(error = %chain(&fault.error), "cannot connect");
                    if worst.as_ref().is_none_or(|worst| worst.cause <= fault.cause) {
                        worst = Some(fault);
                    }
                }
            }
        }
        Err(worst.unwrap_or_else(|| Fault::refused(Error::config("the URL names no host"))))
    }

    /// Opens a connection to one host, by its place in the URL.
    ///
    /// # Errors
    /// The error, and if trying again can help.
    pub(crate) async fn dial_one(&self, at: usize, role: &str, patience: Duration) -> Result<Link, Fault> {
        connect::open(&self.target, at, &format!("{} {role}", self.name), patience).await
    }
}
