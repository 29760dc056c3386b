//! A name server that answers what a test says.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::net::UdpSocket;
use tokio::task::spawn_local;

/// What is said of one name: answers in their order, of which the last stays.
type Answers = HashMap<String, VecDeque<Said>>;

#[derive(Clone)]
enum Said {
    Addresses(Vec<Ipv4Addr>),
    Nothing,
}

/// A name server. Names that it was not told of do not exist.
pub struct Names {
    address: SocketAddr,
    answers: Rc<RefCell<Answers>>,
    asked: Rc<RefCell<Vec<String>>>,
}

impl Names {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let names = Self { address: socket.local_addr().unwrap(), answers: Rc::default(), asked: Rc::default() };
        let (answers, asked) = (Rc::clone(&names.answers), Rc::clone(&names.asked));
        spawn_local(async move {
            let mut query = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let Some(answer) = answer(&query[..length], &answers, &asked) else { continue };
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        names
    }

    /// The name has these addresses, with no time to live; said again, they are what is answered next.
    pub fn says(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.answers.borrow_mut().entry(name.to_owned()).or_default().push_back(Said::Addresses(addresses));
    }

    /// Whoever asks for the name never gets an answer.
    pub fn is_silent_about(&self, name: &str) {
        self.answers.borrow_mut().entry(name.to_owned()).or_default().push_back(Said::Nothing);
    }

    /// The key of a listener that asks it.
    pub fn key(&self) -> String {
        format!("forward.name_servers = \"{}\"", self.address)
    }

    /// Every name that was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }
}

/// RFC 1035 §4.1, for one question.
fn answer(query: &[u8], answers: &RefCell<Answers>, asked: &RefCell<Vec<String>>) -> Option<Vec<u8>> {
    let (mut name, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let label = usize::from(query[at]);
        name.push(String::from_utf8_lossy(&query[at + 1..at + 1 + label]).to_ascii_lowercase());
        at += 1 + label;
    }
    let name = name.join(".");
    let is_a = query[at + 1..at + 3] == [0, 1];
    let question = &query[12..at + 5];
    asked.borrow_mut().push(name.clone());
    let mut answers = answers.borrow_mut();
    let known = answers.get_mut(&name);
    let said = match known {
        None => None,
        Some(said) if is_a && said.len() > 1 => said.pop_front(),
        Some(said) => said.front().cloned(),
    };
    let (code, addresses) = match said {
        None => (3, Vec::new()),
        Some(Said::Nothing) => return None,
        Some(Said::Addresses(addresses)) => (0, if is_a { addresses } else { Vec::new() }),
    };
    let mut message = query[..2].to_vec();
    message.extend([0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    message.extend(question);
    for address in addresses {
        // A pointer to the question's name, A, IN, no time to live.
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        message.extend(address.octets());
    }
    Some(message)
}
