//! When to hand-shake again, send a keepalive or forget (white paper, section 6). Times are milliseconds.

/// A session is replaced when it is used at this age …
pub(crate) const REKEY_AFTER: u64 = 120_000;
/// … and not used any more at this one.
pub(crate) const REJECT_AFTER: u64 = 180_000;
/// Without an answer an initiation is repeated after this time, plus jitter, …
pub(crate) const REKEY_TIMEOUT: u64 = 5_000;
/// … and on several paths sooner for a while: the first ones only open the NATs for each other.
pub(crate) const SEARCH_TIMEOUT: u64 = 1_000;
pub(crate) const SEARCH_LASTS: u64 = 10_000;
/// It is given up when this time has passed since the first one.
pub(crate) const GIVE_UP_AFTER: u64 = 90_000;
/// Whoever received data and sent nothing for this long says that it is there.
pub(crate) const KEEPALIVE: u64 = 10_000;
/// Largest random addition to `REKEY_TIMEOUT`, so that two nodes do not keep crossing each other.
pub(crate) const JITTER: u64 = 334;
/// Initiations of one peer are accepted at most this often.
pub(crate) const INITIATION_GAP: u64 = 20;
/// Keys that have not been used for this long are forgotten.
pub(crate) const FORGET_AFTER: u64 = REJECT_AFTER * 3;
/// An initiator that only receives replaces the session at this age.
const REKEY_AFTER_RECEIVING: u64 = REJECT_AFTER - KEEPALIVE - REKEY_TIMEOUT;

/// What the data path has seen of a peer; 0 stands for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Last authenticated packet sent, keepalives included.
    pub(crate) last_sent: u64,
    /// Last authenticated packet received, keepalives included.
    pub(crate) last_received: u64,
    /// First data received since we sent anything.
    pub(crate) owed_since: u64,
    /// First data sent since we received anything.
    pub(crate) unanswered_since: u64,
}

/// What the core knows of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Situation {
    /// First and latest initiation of the attempt that is going on, and when it is repeated.
    pub(crate) attempt: Option<Attempt>,
    /// When the current session was made, and whether we initiated it.
    pub(crate) session: Option<(u64, bool)>,
    /// Keepalives in any case, every so often.
    pub(crate) persistent: Option<u64>,
}

/// A handshake that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) began: u64,
    pub(crate) repeat_at: u64,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) initiate: bool,
    pub(crate) keepalive: bool,
    pub(crate) give_up: bool,
    pub(crate) forget: bool,
}

/// Decides what is due now.
pub(crate) fn due(now: u64, situation: &Situation, traffic: &Traffic) -> Due {
    let since = |then: u64| now.saturating_sub(then);
    let passed = |then: u64, limit: u64| then != 0 && since(then) >= limit;
    let mut due = Due::default();
    let usable = situation.session.filter(|(created, _)| since(*created) < REJECT_AFTER);
    due.forget = situation.session.is_some_and(|(created, _)| since(created) >= FORGET_AFTER);

    let newest = traffic.last_sent.max(traffic.last_received);
    let wants_persistent = situation.persistent.is_some_and(|every| newest == 0 || since(newest) >= every);
    let owes = passed(traffic.owed_since, KEEPALIVE);
    due.keepalive = usable.is_some() && (owes || wants_persistent);

    match situation.attempt {
        Some(attempt) if now >= attempt.repeat_at => {
            due.give_up = since(attempt.began) >= GIVE_UP_AFTER;
            due.initiate = !due.give_up;
        }
        Some(_) => {}
        None => {
            let deaf = passed(traffic.unanswered_since, KEEPALIVE + REKEY_TIMEOUT);
            let stale = situation.session.is_some_and(|(created, is_initiator)| {
                is_initiator
                    && (traffic.last_sent >= created + REKEY_AFTER
                        || traffic.last_received >= created + REKEY_AFTER_RECEIVING)
            });
            due.initiate = deaf || stale || (usable.is_none() && wants_persistent);
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000;

    fn session(is_initiator: bool) -> Situation {
        Situation { session: Some((START, is_initiator)), ..Situation::default() }
    }

    #[test]
    fn nothing_is_due_without_traffic() {
        for later in [0, 100_000, 300_000] {
            assert_eq!(due(START + later, &session(true), &Traffic::default()), Due::default());
        }
    }

    #[test]
    fn only_the_initiator_replaces_a_session_and_only_a_used_one() {
        let sent = |at| Traffic { last_sent: at, ..Traffic::default() };
        let received = |at| Traffic { last_received: at, ..Traffic::default() };
        let at = START + REKEY_AFTER;
        assert!(due(at, &session(true), &sent(at)).initiate);
        assert!(!due(at, &session(false), &sent(at)).initiate);
        assert!(!due(at, &session(true), &sent(at - 1)).initiate);
        assert!(!due(at, &session(true), &received(at)).initiate);
        assert!(due(START + 165_000, &session(true), &received(START + 165_000)).initiate);
    }

    #[test]
    fn received_data_is_acknowledged_by_a_keepalive() {
        let traffic = Traffic { owed_since: START + 5, ..Traffic::default() };
        assert!(!due(START + 5 + KEEPALIVE - 1, &session(false), &traffic).keepalive);
        assert!(due(START + 5 + KEEPALIVE, &session(false), &traffic).keepalive);
        assert!(!due(START + 5 + REJECT_AFTER, &session(false), &traffic).keepalive, "no session to use");
    }

    #[test]
    fn silence_after_sent_data_starts_a_handshake() {
        let traffic = Traffic { unanswered_since: START + 5, last_sent: START + 9_000, ..Traffic::default() };
        assert!(!due(START + 5 + 14_999, &session(false), &traffic).initiate);
        assert!(due(START + 5 + 15_000, &session(false), &traffic).initiate);
    }

    #[test]
    fn an_attempt_is_repeated_and_then_given_up() {
        let attempt = |repeat_at| Situation {
            attempt: Some(Attempt { began: START, repeat_at }),
            ..Situation::default()
        };
        let none = Traffic::default();
        assert_eq!(due(START + 4_999, &attempt(START + 5_000), &none), Due::default());
        assert!(due(START + 5_000, &attempt(START + 5_000), &none).initiate);
        let late = due(START + 90_000, &attempt(START + 90_000), &none);
        assert!(late.give_up && !late.initiate);
    }

    #[test]
    fn persistent_keepalives_need_no_traffic() {
        let with = |session| Situation { session, persistent: Some(25_000), ..Situation::default() };
        assert!(due(START, &with(None), &Traffic::default()).initiate);
        let traffic = Traffic { last_sent: START, ..Traffic::default() };
        assert!(!due(START + 24_999, &with(Some((START, true))), &traffic).keepalive);
        assert!(due(START + 25_000, &with(Some((START, true))), &traffic).keepalive);
    }

    #[test]
    fn old_keys_are_forgotten() {
        assert!(due(START + FORGET_AFTER, &session(true), &Traffic::default()).forget);
    }
}
