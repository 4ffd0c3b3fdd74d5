//! The share of a limited resource that one address may hold, so that no single address can take what
//! all need. An IPv6 client is counted by its /64.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntCounter;

use super::client::held_to;

pub struct Share {
    most: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
    refused: IntCounter,
}

/// One unit of an address's share, returned when dropped.
pub struct Held {
    share: Arc<Share>,
    address: IpAddr,
}

impl Share {
    /// Creates the share for at most so many units per address, but at least one.
    pub fn new(most: usize, refused: IntCounter) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), held: Mutex::default(), refused })
    }

    /// Takes one unit. None: the address has its share, which is counted as a refusal.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Held> {
        let held = self.try_take(address);
        if held.is_none() {
            self.refused();
        }
        held
    }

    /// The same without counting.
    pub fn try_take(self: &Arc<Self>, address: IpAddr) -> Option<Held> {
        let address = held_to(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let units = held.entry(address).or_default();
        if *units >= self.most {
            return None;
        }
        *units += 1;
        Some(Held { share: Arc::clone(self), address })
    }

    /// Counts a refusal.
    pub fn refused(&self) {
        self.refused.inc();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.share.held.lock().unwrap_or_else(PoisonError::into_inner);
        let units = held.get_mut(&self.address).map_or(0, |units| {
            *units -= 1;
            *units
        });
        if units == 0 {
            held.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_gets_its_share_and_no_more() {
        let share = Share::new(2, IntCounter::new("r", "r").unwrap());
        let take = |address: &str| share.take(address.parse().unwrap());
        let (first, _second) = (take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap());
        assert!(take("2001:db8::3").is_none() && take("2001:db8:0:1::1").is_some());
        drop(first);
        assert!(take("2001:db8::3").is_some());
        // Nothing is kept for an address that holds nothing.
        assert_eq!(share.held.lock().unwrap().len(), 1);
    }
}
