# Makes a history for conclave-check out of what the clients in the containers printed.
# Input: one object of lists:
#   senders   one for each sender: {name, acks: [what `send --json` printed]}; message i said "NAME i"
#   tails     one for each follower: {name, events: [what `tail --json` printed]}
#   finals    one for each server: {name, events: [what `history --json` printed]}
# The room is 1. No times are known, so all sends are said to have been made before the first ack:
# what remains to judge are the places.

def content: {what: .kind, body};
def seen: {seq, session: .session_id, no: .request_no} + content;
. as {$senders, $tails, $finals}
| def session($name): first($finals[0].events[] | select(.body | startswith($name + " ")) | .session_id);

($senders[] | .name as $name | session($name) as $session | .acks | to_entries[]
    | {kind: "invoke", at: 1, session: $session, room: 1, no: .value.request_no, what: "message",
       body: "\($name) \(.key + 1)"}),
($senders[] | .name as $name | session($name) as $session | .acks[]
    | {kind: "ok", at: 2, session: $session, room: 1, no: .request_no, seq}),
($tails[] | .name as $name
    | {kind: "resumed", at: 2, reader: $name, stream: 1, room: 1, after: 0, node: "any"},
      (.events[] | {kind: "observed", at: 3, reader: $name, stream: 1, room: 1} + seen)),
($finals[] | .name as $name
    | {kind: "final_read", at: 4, reader: $name, room: 1, after: 0, last: (.events | last | .seq)},
      (.events[] | {kind: "final", reader: $name, room: 1} + seen))
