//! Evaluates active checks (sans-io): only several equal results in a row change the state.

/// How many checks in a row it takes. Both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// For one that is out to be let in.
    pub healthy_after: u32,
    /// For one that is in to be taken out.
    pub unhealthy_after: u32,
}

/// What is held of an endpoint. Until checks have proven otherwise it is well: a proxy that starts serves at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    is_unhealthy: bool,
    /// Checks in a row that said otherwise.
    against: u32,
}

impl Verdict {
    /// Takes in a check; says whether the verdict changed with it.
    pub fn checked(&mut self, well: bool, rules: Rules) -> bool {
        if well != self.is_unhealthy {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let needed = if self.is_unhealthy { rules.healthy_after } else { rules.unhealthy_after };
        if self.against < needed {
            return false;
        }
        *self = Self { is_unhealthy: !self.is_unhealthy, against: 0 };
        true
    }

    /// Other checks are made from now on: what those before said stands until the new ones have said otherwise in a row of
    /// their own.
    pub fn restart(&mut self) {
        self.against = 0;
    }

    /// Whether it is held to be unwell.
    pub fn is_unhealthy(&self) -> bool {
        self.is_unhealthy
    }

    /// Checks in a row that spoke against the verdict so far.
    pub fn against(&self) -> u32 {
        self.against
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { healthy_after: 2, unhealthy_after: 3 };

    fn changes(verdict: &mut Verdict, checks: &[bool]) -> Vec<bool> {
        checks.iter().map(|well| verdict.checked(*well, RULES)).collect()
    }

    #[test]
    fn a_row_of_failures_takes_out_and_a_row_of_successes_lets_in() {
        let mut verdict = Verdict::default();
        assert_eq!(
            changes(&mut verdict, &[false, false, true, false, false, false]),
            [false, false, false, false, false, true]
        );
        assert!(verdict.is_unhealthy());
        assert_eq!(changes(&mut verdict, &[true, false, true, true]), [false, false, false, true]);
        assert!(!verdict.is_unhealthy());
    }

    #[test]
    fn other_checks_begin_a_row_of_their_own() {
        let mut verdict = Verdict::default();
        changes(&mut verdict, &[false, false]);
        verdict.restart();
        assert_eq!(changes(&mut verdict, &[false, false, false]), [false, false, true]);
        verdict.restart();
        assert!(verdict.is_unhealthy(), "what was known is not forgotten");
    }

    proptest! {
        #[test]
        fn it_changes_exactly_when_the_last_checks_agree_against_it(
            checks in prop::collection::vec(any::<bool>(), 0..200),
            healthy_after in 1u32..5,
            unhealthy_after in 1u32..5,
        ) {
            let rules = Rules { healthy_after, unhealthy_after };
            let mut verdict = Verdict::default();
            let mut since = 0;
            for at in 0..checks.len() {
                let was = verdict.is_unhealthy();
                let changed = verdict.checked(checks[at], rules);
                let needed = if was { healthy_after } else { unhealthy_after } as usize;
                let row = &checks[since..=at];
                let agree = row.len() >= needed && row[row.len() - needed..].iter().all(|well| *well == was);
                prop_assert_eq!(changed, agree, "after {} checks", at + 1);
                prop_assert_eq!(verdict.is_unhealthy(), was != changed);
                if changed {
                    since = at + 1;
                }
            }
        }
    }
}
