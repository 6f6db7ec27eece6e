//! Who is asked next: the same one again, the next mirror, or the registry itself.

use super::{Error, Registry, retry::Patience, transport::Transport};

/// The way to one thing that is wanted.
#[derive(Debug)]
pub(super) struct Route<'a> {
    registry: &'a Registry,
    /// Who is asked: the mirror of this number, or the registry itself after the last.
    pub(super) at: usize,
    pub(super) patience: Patience<'a>,
}

impl<'a> Route<'a> {
    pub(super) fn new(registry: &'a Registry) -> Route<'a> {
        let at = next(registry, 0);
        Route { registry, at, patience: transport(registry, at).patience() }
    }

    pub(super) fn transport(&self) -> &'a Transport {
        transport(self.registry, self.at)
    }

    /// Waits before the next try, or turns to the next; or returns the error.
    pub(super) async fn again(&mut self, error: Error) -> Result<(), Error> {
        match self.patience.again(error).await {
            Err(error) => self.turn_from(error),
            waited => waited,
        }
    }

    /// [`Route::again`] after an error that the caller knows to be worth another try.
    pub(super) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        match self.patience.pause(error).await {
            Err(error) => self.turn_from(error),
            waited => waited,
        }
    }

    /// Turns to the next mirror, or to the registry itself. Its error is the last.
    fn turn_from(&mut self, error: Error) -> Result<(), Error> {
        if self.at == self.registry.mirrors.len() {
            return Err(self.after_mirrors(error));
        }
        self.transport().fail(&error);
        self.at = next(self.registry, self.at + 1);
        self.patience = self.transport().patience();
        Ok(())
    }

    /// Asks none of the mirrors again that were asked so far: which of them sent what is wrong
    /// cannot be told.
    pub(super) fn distrust(&self, error: &Error) {
        let mirrors = self.registry.mirrors.iter().take(self.at + 1);
        mirrors.filter(|mirror| !mirror.is_down()).for_each(|mirror| mirror.fail(error));
    }

    /// The registry's error with what the mirrors had failed with: where a site is cut off from the
    /// world, that is the cause.
    fn after_mirrors(&self, error: Error) -> Error {
        let failures: Vec<_> =
            self.registry.mirrors.iter().filter_map(Transport::failure).collect();
        if failures.is_empty() || matches!(error, Error::Digest { .. } | Error::Size { .. }) {
            return error;
        }
        Error::NoMirror { mirrors: failures.join(" and "), origin: error.into() }
    }
}

/// The number of the first mirror from `from` on that is not given up; after the last one comes the
/// registry itself.
fn next(registry: &Registry, from: usize) -> usize {
    let up = registry.mirrors.iter().skip(from).position(|mirror| !mirror.is_down());
    up.map_or(registry.mirrors.len(), |skipped| from + skipped)
}

fn transport(registry: &Registry, at: usize) -> &Transport {
    registry.mirrors.get(at).unwrap_or(&registry.origin)
}
