//! A blob on its way.

use bytes::{Buf as _, Bytes};
use reqwest::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, HeaderValue, RANGE},
};

use super::{Error, Registry, route::Route};
use crate::{
    digest::{Digest, Hasher},
    oci::Descriptor,
};

/// A blob on its way. Whoever reads it to its end without an error has had exactly the bytes of
/// its descriptor; before that, nothing is known about them.
#[derive(Debug)]
pub struct Blob<'a> {
    route: Route<'a>,
    what: &'static str,
    descriptor: &'a Descriptor,
    response: Option<Response>,
    received: u64,
    /// Bytes still to come that were received before: the server does not know Range.
    surplus: u64,
    /// Who has refused a range, and is asked for the whole.
    no_ranges_at: Option<usize>,
    /// Bytes that came after the last one.
    excess: u64,
    hasher: Hasher,
}

impl<'a> Blob<'a> {
    pub(super) fn new(
        registry: &'a Registry,
        what: &'static str,
        descriptor: &'a Descriptor,
    ) -> Blob<'a> {
        Blob {
            route: Route::new(registry),
            what,
            descriptor,
            response: None,
            received: 0,
            surplus: 0,
            no_ranges_at: None,
            excess: 0,
            hasher: Hasher::new(),
        }
    }

    /// Goes on after the first `received` bytes, which `hasher` has seen.
    pub fn after(mut self, received: u64, hasher: Hasher) -> Self {
        (self.received, self.hasher) = (received, hasher);
        self
    }

    /// Returns the next bytes, or `None` after the last, when size and digest are right.
    ///
    /// A broken connection is taken up again with a Range request where it broke, at the next mirror
    /// if need be.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while self.received < self.descriptor.size {
            match self.read().await {
                Ok(Some(chunk)) if chunk.is_empty() => {}
                Ok(Some(chunk)) => return Ok(Some(chunk)),
                // The body was closed early, which happens on real networks; but not once more, when
                // the whole has been asked for after a range was refused.
                Ok(None) if self.is_without_ranges() => {
                    self.route.again(self.wrong_size(self.received)).await?;
                }
                Ok(None) => self.route.pause(self.wrong_size(self.received)).await?,
                Err(error) => self.route.again(error).await?,
            }
        }
        let got = std::mem::take(&mut self.hasher).finish();
        if got == self.descriptor.digest {
            return Ok(None);
        }
        let error = match self.excess {
            0 => self.wrong_digest(got),
            excess => self.wrong_size(self.received + excess),
        };
        self.route.distrust(&error);
        Err(error)
    }

    /// Reads it to its end.
    pub(super) async fn whole(mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Reads what comes next, or `None` where the body ends before the blob does.
    async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        let transport = self.route.transport();
        let mut response = match self.response.take() {
            Some(response) => response,
            None => self.open().await?,
        };
        self.route.patience.check_rate().map_err(|fault| transport.unreachable(fault))?;
        let chunk = transport.chunk(&mut self.route.patience, &mut response).await?;
        let Some(mut chunk) = chunk else { return Ok(None) };
        let known = self.surplus.min(chunk.len() as u64);
        self.surplus -= known;
        self.route.patience.came(chunk.len(), known < chunk.len() as u64);
        chunk.advance(known as usize);
        // The descriptor's size is the only one that is trusted: whatever follows is not read.
        let missing = self.descriptor.size - self.received;
        self.excess = (chunk.len() as u64).saturating_sub(missing);
        chunk.truncate(chunk.len() - self.excess as usize);
        self.received += chunk.len() as u64;
        self.hasher.update(&chunk);
        if self.received < self.descriptor.size {
            self.response = Some(response);
        }
        Ok(Some(chunk))
    }

    /// Requests what is still missing, and passes over what a server without Range sends again.
    async fn open(&mut self) -> Result<Response, Error> {
        let transport = self.route.transport();
        let path = format!("blobs/{}", self.descriptor.digest);
        let mut range = Vec::new();
        if self.received > 0 && !self.is_without_ranges() {
            let from = format!("bytes={}-", self.received);
            range.push((RANGE, HeaderValue::from_str(&from).expect("a number is ASCII")));
        }
        let answer = transport.attempt(&mut self.route.patience, Method::GET, &path, &range).await;
        let response = match answer {
            // It does not like ranges, or has less than it should.
            Err(error)
                if error.status() == Some(StatusCode::RANGE_NOT_SATISFIABLE)
                    && !self.is_without_ranges() =>
            {
                self.no_ranges_at = Some(self.route.at);
                transport.attempt(&mut self.route.patience, Method::GET, &path, &[]).await?
            }
            answer => answer?,
        };
        let starts_at = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (start, total) = range_of(&response).ok_or_else(|| {
                    let problem = "partial content without a valid Content-Range";
                    transport.protocol(problem.to_owned())
                })?;
                if let Some(total) = total.filter(|total| *total != self.descriptor.size) {
                    return Err(self.wrong_size(total));
                }
                start
            }
            _ => 0,
        };
        if starts_at > self.received {
            return Err(transport.protocol(format!(
                "asked for bytes from {}, got them from {starts_at}",
                self.received
            )));
        }
        self.surplus = self.received - starts_at;
        Ok(response)
    }

    fn is_without_ranges(&self) -> bool {
        self.no_ranges_at == Some(self.route.at)
    }

    fn wrong_digest(&self, got: Digest) -> Error {
        Error::Digest {
            registry: self.route.transport().name().to_owned(),
            what: self.what,
            expected: self.descriptor.digest.clone(),
            got,
        }
    }

    fn wrong_size(&self, got: u64) -> Error {
        Error::Size {
            registry: self.route.transport().name().to_owned(),
            what: self.what,
            digest: self.descriptor.digest.clone(),
            expected: self.descriptor.size,
            got,
        }
    }
}

/// The first byte and the length of `Content-Range: bytes FIRST-LAST/LENGTH` (RFC 9110, 14.4), whose
/// length may be `*`.
fn range_of(response: &Response) -> Option<(u64, Option<u64>)> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (first, rest) = value.strip_prefix("bytes ")?.split_once('-')?;
    let (_, length) = rest.split_once('/')?;
    Some((first.parse().ok()?, length.parse().ok()))
}
