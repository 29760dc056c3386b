//! Weighted random choice by Vose's alias method: one random number and one comparison, whatever the number of
//! endpoints.

use super::EndpointIndex;

/// What a lot is worth at most: a 32-bit draw below it stays, any other goes to the alias.
const WHOLE: u64 = 1 << 32;

/// The lots to draw from.
#[derive(Clone, Debug)]
pub struct Lots {
    lots: Box<[Lot]>,
    weights: Box<[u32]>,
}

#[derive(Clone, Copy, Debug)]
struct Lot {
    /// Draws below it stay here.
    stays: u64,
    /// Where the others go.
    alias: u32,
}

impl Lots {
    /// The lots of these weights; zero counts as one.
    pub fn new(weights: &[u32]) -> Self {
        let weights: Box<[u32]> = weights.iter().map(|&weight| weight.max(1)).collect();
        let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
        let count = weights.len() as u128;
        // In units of the average weight: `total` is one.
        let mut shares: Vec<u128> = weights.iter().map(|&weight| u128::from(weight) * count).collect();
        let mut lots: Vec<Lot> = (0..weights.len() as u32).map(|alias| Lot { stays: WHOLE, alias }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..shares.len()).partition(|&i| shares[i] < total);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            lots[poor] = Lot { stays: (shares[poor] * u128::from(WHOLE) / total) as u64, alias: rich as u32 };
            shares[rich] -= total - shares[poor];
            if shares[rich] < total {
                large.pop();
                small.push(rich);
            }
        }
        Self { lots: lots.into(), weights }
    }

    /// Draws an endpoint that is not in `tried`, or any where all are.
    pub fn pick(&self, mut chance: impl FnMut() -> u64, tried: &[EndpointIndex]) -> Option<EndpointIndex> {
        if !tried.is_empty()
            && let Some(index) = self.pick_untried(&mut chance, tried)
        {
            return Some(index);
        }
        self.draw(chance())
    }

    /// Draws by weight among all.
    pub fn draw(&self, chance: u64) -> Option<EndpointIndex> {
        let place = ((chance >> 32) * self.lots.len() as u64) >> 32;
        let lot = self.lots.get(place as usize)?;
        let stays = (chance & (WHOLE - 1)) < lot.stays;
        Some(EndpointIndex(if stays { place as u32 } else { lot.alias }))
    }

    /// Draws by weight among those not in `tried`: a retry, so it may look at every endpoint.
    fn pick_untried(&self, chance: &mut impl FnMut() -> u64, tried: &[EndpointIndex]) -> Option<EndpointIndex> {
        self.pick_but(chance, |index| tried.contains(&index))
    }

    /// Draws by weight among those that are not passed over; looks at every endpoint.
    pub(super) fn pick_but(
        &self,
        chance: &mut impl FnMut() -> u64,
        passes_over: impl Fn(EndpointIndex) -> bool,
    ) -> Option<EndpointIndex> {
        let untried = || {
            let all = self.weights.iter().enumerate().map(|(i, &weight)| (EndpointIndex(i as u32), u64::from(weight)));
            all.filter(|(index, _)| !passes_over(*index))
        };
        let total: u64 = untried().map(|(_, weight)| weight).sum();
        let mut draw = ((u128::from(chance()) * u128::from(total)) >> 64) as u64;
        for (index, weight) in untried() {
            if draw < weight {
                return Some(index);
            }
            draw -= weight;
        }
        None
    }
}
