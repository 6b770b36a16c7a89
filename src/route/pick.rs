//! A random choice in proportion to weights. Pure.

use rand::Rng;

/// Picks one of `items`, each with a chance in proportion to its weight. Weights that are not positive and finite count as 0;
/// `None` if all do. Runs through the items twice and allocates nothing.
pub fn weighted<T>(items: impl Iterator<Item = (T, f64)> + Clone, rng: &mut impl Rng) -> Option<T> {
    let usable = items.filter(|(_, weight)| weight.is_finite() && *weight > 0.0);
    let total: f64 = usable.clone().map(|(_, weight)| weight).sum();
    let mut left = rng.random::<f64>() * total;
    let mut last = None;
    for (item, weight) in usable {
        left -= weight;
        if left < 0.0 {
            return Some(item);
        }
        // Rounding may leave a hair over at the end; it belongs to the last one.
        last = Some(item);
    }
    last
}

/// Picks the one of `items` with the least cost; among equals one at random. Costs that are no numbers are passed over.
pub fn least<T>(items: impl Iterator<Item = (T, f64)>, rng: &mut impl Rng) -> Option<T> {
    let mut best: Option<(T, f64)> = None;
    let mut equals = 1_u32;
    for (item, cost) in items.filter(|(_, cost)| !cost.is_nan()) {
        let ordering = best.as_ref().map_or(std::cmp::Ordering::Less, |(_, least)| cost.total_cmp(least));
        equals = if ordering.is_eq() { equals.saturating_add(1) } else { equals };
        if ordering.is_lt() || (ordering.is_eq() && rng.random_range(0..equals) == 0) {
            equals = if ordering.is_lt() { 1 } else { equals };
            best = Some((item, cost));
        }
    }
    best.map(|(item, _)| item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn nothing_to_pick_from() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(weighted(std::iter::empty::<((), f64)>(), &mut rng), None);
        let useless = [(1, 0.0), (2, -1.0), (3, f64::NAN), (4, f64::INFINITY)];
        assert_eq!(weighted(useless.into_iter(), &mut rng), None);
    }

    #[test]
    fn the_least_is_picked_and_equals_evenly() {
        let mut rng = StdRng::seed_from_u64(3);
        assert_eq!(least([(1, f64::NAN)].into_iter(), &mut rng), None);
        let mut counts = [0_u32; 5];
        for _ in 0..9000 {
            let costs = [(0, 2.0), (1, 1.0), (2, 1.0), (3, 7.0), (4, 1.0)];
            counts[least(costs.into_iter(), &mut rng).unwrap()] += 1;
        }
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!([1, 2, 4].into_iter().all(|at| (2700..3300).contains(&counts[at])), "{counts:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Over 40,000 picks every share is within 1.5 % of the whole of what its weight says.
        #[test]
        fn shares_follow_weights(
            weights in proptest::collection::vec(prop_oneof![1 => Just(0.0), 5 => 0.1..10.0_f64], 1..6),
            seed in any::<u64>(),
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let total: f64 = weights.iter().sum();
            prop_assume!(total > 0.0);
            let mut counts = vec![0_u32; weights.len()];
            for _ in 0..40_000 {
                counts[weighted(weights.iter().copied().enumerate(), &mut rng).unwrap()] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                let (share, expected) = (f64::from(*count) / 40_000.0, weight / total);
                prop_assert!((share - expected).abs() < 0.015, "{share} is not {expected}");
                prop_assert!(*weight > 0.0 || *count == 0);
            }
        }
    }
}
