use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;

use fastrand::Rng;

use super::*;

/// Deadlines are rounded up to a tick, twice: when it was set, and from when.
const TICK: Duration = Duration::from_nanos(3 << 24);

/// What one flow is to the simulation, told a second time in the plainest way.
struct Told {
    key: Key,
    began: Instant,
    last: Instant,
}

struct Simulation {
    flows: Flows<(u64, Admission)>,
    told: BTreeMap<FlowId, Told>,
    times: BTreeMap<GroupId, Times>,
    now: Instant,
    rng: Rng,
    listener: Arc<Limit>,
    per_address: Arc<PerAddress>,
    process: Arc<Limit>,
    next: u64,
    refused: usize,
    ended: [usize; 2],
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut rng = Rng::with_seed(seed);
        let mut flows = Flows::new(now);
        let mut times = BTreeMap::new();
        for _ in 0..rng.usize(1..4) {
            let some = random_times(&mut rng);
            times.insert(flows.open_group(some), some);
        }
        Self {
            flows,
            told: BTreeMap::new(),
            times,
            now,
            listener: Arc::new(Limit::new(rng.u32(5..60))),
            per_address: Arc::new(PerAddress::new(rng.u32(2..20))),
            process: Arc::new(Limit::new(rng.u32(5..60))),
            rng,
            next: 0,
            refused: 0,
            ended: [0; 2],
        }
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..60 => self.datagram(),
            60..75 => self.answer(),
            75..80 => self.one_ends(),
            80..82 => self.reload(),
            82..83 => self.a_group_goes(),
            _ => self.time_passes(),
        }
        self.check();
    }

    fn random_key(&mut self) -> Key {
        let groups: Vec<_> = self.times.keys().copied().collect();
        let group = groups[self.rng.usize(..groups.len())];
        let client: SocketAddr = match self.rng.bool() {
            true => ([10, 0, 0, self.rng.u8(0..6)], self.rng.u16(1..9)).into(),
            false => ([0, 0, 0, 0, 0, 0xffff, 0x0a00, self.rng.u16(0..6)], self.rng.u16(1..9)).into(),
        };
        let local = self.rng.bool().then(|| IpAddr::from([127, 0, 0, self.rng.u8(1..3)]));
        Key { group, client, local, told: None }
    }

    fn datagram(&mut self) {
        let key = self.random_key();
        let known = self.told.iter().find(|(_, told)| told.key == key).map(|(id, _)| *id);
        assert_eq!(self.flows.find(&key), known);
        if let Some(id) = known {
            return self.touch(id);
        }
        let gate =
            Gate { listener: Some(&self.listener), per_address: Some(&self.per_address), process: &self.process };
        let open = self.told.len() as u32;
        match gate.admit(key.client.ip()) {
            Ok(admission) => {
                assert!(open < self.listener.max() && open < self.process.max());
                self.next += 1;
                // A socket may fail to open; then nothing has happened.
                let fails = self.rng.u32(0..20) == 0;
                let opened =
                    self.flows.open(key, self.now, |_| if fails { Err(()) } else { Ok((self.next, admission)) });
                assert_eq!(opened.is_err(), fails);
                if let Ok(id) = opened {
                    let told = Told { key, began: self.now, last: self.now };
                    assert!(self.told.insert(id, told).is_none(), "a number was given twice");
                }
            }
            Err(full) => {
                self.refused += 1;
                match full {
                    Full::Listener => assert!(open >= self.listener.max()),
                    Full::Process => assert!(open >= self.process.max()),
                    Full::Address => assert!(self.of_address(key.client.ip()) > 0),
                }
            }
        }
    }

    fn of_address(&self, ip: IpAddr) -> usize {
        self.told.values().filter(|told| told.key.client.ip().to_canonical() == ip.to_canonical()).count()
    }

    fn touch(&mut self, id: FlowId) {
        self.flows.touch(id, self.flows.tick(self.now));
        self.told.get_mut(&id).unwrap().last = self.now;
    }

    fn any(&mut self) -> Option<FlowId> {
        let ids: Vec<_> = self.told.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.rng.usize(..ids.len())])
    }

    fn answer(&mut self) {
        if let Some(id) = self.any() {
            self.touch(id);
        }
    }

    /// An ICMP error, or an endpoint that left.
    fn one_ends(&mut self) {
        if let Some(id) = self.any() {
            self.end(id);
        }
    }

    fn end(&mut self, id: FlowId) {
        let told = self.told.remove(&id).expect("ended what is not there");
        let (key, began, _) = self.flows.end(id).unwrap();
        assert_eq!(key, told.key);
        assert_eq!(began, told.began);
        assert!(self.flows.end(id).is_none());
    }

    /// A generation with other times, or a drain, which shortens them.
    fn reload(&mut self) {
        let groups: Vec<_> = self.times.keys().copied().collect();
        let group = groups[self.rng.usize(..groups.len())];
        let times = random_times(&mut self.rng);
        self.flows.set_times(group, times);
        self.times.insert(group, times);
        self.listener.set_max(self.rng.u32(5..60));
    }

    fn a_group_goes(&mut self) {
        if self.times.len() < 2 {
            let times = random_times(&mut self.rng);
            self.times.insert(self.flows.open_group(times), times);
            return;
        }
        let (group, _) = self.times.pop_first().unwrap();
        let ids: HashSet<_> = self.flows.of(group).collect();
        assert_eq!(ids.len(), self.flows.count(group));
        ids.into_iter().for_each(|id| self.end(id));
        self.flows.close_group(group);
    }

    fn time_passes(&mut self) {
        let ahead = match self.rng.u32(0..10) {
            0 => Duration::from_secs(self.rng.u64(0..400)),
            1..4 => Duration::from_millis(self.rng.u64(0..20_000)),
            _ => Duration::from_micros(self.rng.u64(0..300_000)),
        };
        self.now += ahead;
        while self.flows.next_deadline().is_some_and(|due| due <= self.now) {
            // Few at a time, as an event loop does that has other things to do.
            for _ in 0..self.rng.usize(1..5) {
                let Some((id, expiry)) = self.flows.expired(self.flows.tick(self.now)) else { break };
                let (due, why) = self.due(id);
                assert!(due <= self.now, "ended early");
                if !self.is_close(id) {
                    assert_eq!(expiry, why);
                }
                self.ended[usize::from(expiry == Expiry::Age)] += 1;
                self.end(id);
            }
        }
        for id in self.told.keys() {
            assert!(self.due(*id).0 + TICK > self.now, "one that is over was not ended: {id:?}");
        }
    }

    fn due(&self, id: FlowId) -> (Instant, Expiry) {
        let told = &self.told[&id];
        let times = self.times[&told.key.group];
        let idle = told.last + times.idle;
        match times.max_age.map(|age| told.began + age) {
            Some(age) if age <= idle => (age, Expiry::Age),
            _ => (idle, Expiry::Idle),
        }
    }

    /// Whether the two deadlines of a flow lie so near that rounding may turn them around.
    fn is_close(&self, id: FlowId) -> bool {
        let told = &self.told[&id];
        let times = self.times[&told.key.group];
        let idle = told.last + times.idle;
        times.max_age.map(|age| told.began + age).is_some_and(|age| age < idle + TICK && idle < age + TICK)
    }

    fn check(&self) {
        assert_eq!(self.flows.slots.len(), self.told.len());
        assert_eq!(self.flows.index.len(), self.told.len());
        assert_eq!(self.flows.is_empty(), self.told.is_empty());
        for (id, told) in &self.told {
            assert_eq!(self.flows.find(&told.key), Some(*id));
            assert_eq!(self.flows.key(*id), Some(&told.key));
        }
        for group in self.times.keys() {
            let count = self.told.values().filter(|told| told.key.group == *group).count();
            assert_eq!(self.flows.count(*group), count);
        }
        let next = self.flows.next_deadline();
        assert!(self.told.is_empty() || next.is_some());
        for id in self.told.keys() {
            let latest = self.due(*id).0.max(self.now) + TICK;
            assert!(next.unwrap() <= latest, "nobody would look at {id:?} in time");
        }
        // What is open is what was taken from the limits.
        assert_eq!(self.listener.open() as usize, self.told.len());
        assert_eq!(self.process.open() as usize, self.told.len());
        for last in 0..6 {
            let ip = IpAddr::from([10, 0, 0, last]);
            assert_eq!(self.per_address.open(ip) as usize, self.of_address(ip));
        }
    }
}

fn random_times(rng: &mut Rng) -> Times {
    let idle = Duration::from_millis(rng.u64(1..120_000));
    Times { idle, max_age: rng.bool().then(|| Duration::from_millis(rng.u64(1..200_000))) }
}

#[test]
fn a_flow_ends_when_it_is_due_and_everything_it_took_is_given_back() {
    let (mut ended, mut refused) = ([0; 2], 0);
    for _ in 0..60 {
        let seed = std::env::var("TIDEGATE_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        println!("TIDEGATE_SEED={seed}");
        let mut simulation = Simulation::new(seed);
        for _ in 0..400 {
            simulation.step();
        }
        ended = [ended[0] + simulation.ended[0], ended[1] + simulation.ended[1]];
        refused += simulation.refused;
    }
    // The simulation meets what it is for.
    assert!(ended[0] > 0 && ended[1] > 0 && refused > 0, "{ended:?} {refused}");
}

fn key(port: u16, group: GroupId) -> Key {
    Key { group, client: ([192, 0, 2, 1], port).into(), local: None, told: None }
}

#[test]
fn an_answer_keeps_a_flow_as_a_datagram_does() {
    let start = Instant::now();
    let mut flows = Flows::new(start);
    let group = flows.open_group(Times { idle: Duration::from_secs(10), max_age: None });
    let Ok(id) = flows.open(key(1, group), start, |_| Ok::<_, Infallible>(()));
    for seconds in (5..100).step_by(5) {
        let now = flows.tick(start + Duration::from_secs(seconds));
        flows.touch(id, now);
        assert_eq!(flows.expired(now), None);
    }
    assert_eq!(flows.expired(flows.tick(start + Duration::from_secs(106))), Some((id, Expiry::Idle)));
}

#[test]
fn an_age_is_kept_however_far_it_lies() {
    let start = Instant::now();
    let mut flows = Flows::new(start);
    let (idle, age) = (Duration::from_secs(100_000), Duration::from_secs(36_000));
    let group = flows.open_group(Times { idle, max_age: Some(age) });
    let Ok(id) = flows.open(key(1, group), start, |_| Ok::<_, Infallible>(()));
    while let Some(due) = flows.next_deadline().filter(|due| *due < start + age) {
        assert_eq!(flows.expired(flows.tick(due)), None, "ended early");
    }
    assert_eq!(flows.expired(flows.tick(start + age + TICK)), Some((id, Expiry::Age)));
    assert!(flows.end(id).is_some());
    assert_eq!(flows.next_deadline(), None);
}

#[test]
fn what_a_refused_client_took_is_given_back() {
    let (listener, process) = (Arc::new(Limit::new(5)), Arc::new(Limit::new(1)));
    let per_address = Arc::new(PerAddress::new(5));
    let gate = Gate { listener: Some(&listener), per_address: Some(&per_address), process: &process };
    let ip = IpAddr::from([192, 0, 2, 1]);
    let held = gate.admit(ip).unwrap();
    assert_eq!(gate.admit(ip).err(), Some(Full::Process));
    assert_eq!((listener.open(), per_address.open(ip), process.open()), (1, 1, 1));
    drop(held);
    assert_eq!((listener.open(), per_address.open(ip), process.open()), (0, 0, 0));
}
