package cluster

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// logBytes is a log in the form in which FuzzApply gets one: each command as
// protobuf, preceded by its length (uvarint).
func logBytes(t testing.TB, cmds ...*hadv1.Command) []byte {
	t.Helper()
	var out []byte
	for _, cmd := range cmds {
		body, err := proto.Marshal(cmd)
		if err != nil {
			t.Fatal(err)
		}
		out = append(binary.AppendUvarint(out, uint64(len(body))), body...)
	}
	return out
}

// logOf reads what logBytes wrote, as far as it makes sense.
func logOf(data []byte) (cmds []*hadv1.Command) {
	for len(data) > 0 && len(cmds) < 64 {
		n, head := binary.Uvarint(data)
		if head <= 0 || n > uint64(len(data)-head) {
			return cmds
		}
		body := data[head : head+int(n)] //nolint:gosec // n is at most len(data)
		data = data[head+int(n):]        //nolint:gosec // as above
		// As it comes in a cluster: nothing that can't be read is applied.
		sealed := append([]byte{envelopeFormat, 0, 0, 0, 0, 0}, body...)
		for _, flags := range []byte{0, flagLease} {
			sealed[1] = flags
			reseal(sealed)
			if cmd, err := decodeCommand(sealed); err == nil {
				cmds = append(cmds, cmd)
			}
		}
	}
	return cmds
}

// FuzzApply applies logs of any commands. None may make Apply panic; a refusal
// changes nothing but the index; an epoch never comes twice, and an Acquire
// that is accepted leaves no epoch open but its own and one that was handed
// over to it; no epoch with volumes is closed that neither its own node's report
// nor evidence has made safe; what a View has shown stays as it was; and a node
// that continues from a snapshot comes to the same state as one that has applied
// the whole log.
func FuzzApply(f *testing.F) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	born := []*hadv1.Command{birthCmd(testBirth()), policyCmd(0, "x"), acquireCmd(alpha, 1)} // epoch 3
	f.Add(logBytes(f, append(slices.Clone(born), renewCmd(alpha, 1, 3), acquireCmd(beta, 1, waited(3, 4)))...))
	f.Add(logBytes(f, append(slices.Clone(born), deliverCmd(hookResult("alpha", 1, 3), released("alpha", 2, 3)), acquireCmd(beta, 1))...))
	f.Add(logBytes(f, append(slices.Clone(born), moveCmd("op", 3, "beta"), deliverCmd(progress("beta", 1, 0, hadv1.Progress_OUTCOME_VETOED)), moveEndCmd("op"))...))
	f.Add(logBytes(f, append(slices.Clone(born), acquireCmd(beta, 1), renewCmd(beta, 1, 3), policyCmd(7, "y"), policyCmd(1, "z"))...))
	taken := acquireCmd(beta, 1, &hadv1.Evidence{Epoch: 3, Kind: hadv1.Evidence_KIND_HANDED_OVER})
	taken.GetAcquire().MoveOperation = "op"
	handedOver := append(slices.Clone(born), moveCmd("op", 3, "beta"), taken) // epoch 5 beside 3
	f.Add(logBytes(f, append(slices.Clone(handedOver), renewCmd(alpha, 1, 3), &hadv1.Command{Record: &hadv1.Command_Waited{Waited: &hadv1.Waited{Term: 1, Evidence: waited(3, 3)}}})...))
	f.Add(logBytes(f, append(slices.Clone(handedOver), acquireCmd(alpha, 1, waited(5, 5)), &hadv1.Command{Record: &hadv1.Command_Farewell{Farewell: &hadv1.Farewell{
		NodeId: "id-alpha", Released: &hadv1.Released{Epoch: 3, Reporter: alpha, Kind: hadv1.Evidence_KIND_RELEASED},
	}}})...))
	f.Add(logBytes(f, append(slices.Clone(handedOver), tokenCmd("t", 0, 1), serviceCmd("t", 1, alpha, 3), serviceCmd("t", 1, beta, 5), tokenCmd("t", 2, 1), forgetCmd("t", 3))...))
	mounts := append(slices.Clone(born[:2]), mountsCmd(alpha, 1)) // epoch 3
	fenced := securedCmd("beta", secured(hadv1.Secured_KIND_FENCED, alpha, 1, 3, 3))
	f.Add(logBytes(f, append(slices.Clone(mounts), mountsCmd(beta, 1, waited(3, 3)), fenced, renewCmd(alpha, 1, 3), acquireCmd(beta, 1, waited(3, 3)))...))
	f.Add(logBytes(f, append(slices.Clone(mounts), securedCmd("alpha", secured(hadv1.Secured_KIND_GUARD, alpha, 1, 3, 0)), farewellCmd(alpha, 3))...))
	besideIt := mountsCmd(beta, 1, &hadv1.Evidence{Epoch: 3, Kind: hadv1.Evidence_KIND_HANDED_OVER})
	besideIt.GetAcquire().MoveOperation = "op"
	f.Add(logBytes(f, append(slices.Clone(mounts), moveCmd("op", 3, "beta"), besideIt, waitedCmd(1, waited(3, 3)), fenced, waitedCmd(1, waited(3, 3)))...))
	notified := append(slices.Clone(born), nothingCmd(1, "exec.log", 1, 1), claimCmd(1, "email.ops", 1, 3), claimCmd(1, "exec.log", 1, 4)) // entries 4 to 6
	f.Add(logBytes(f, append(slices.Clone(notified), markCmd("email.ops", 5, sent), markCmd("exec.log", 6, gaveUp), claimCmd(1, "email.ops", 3, 8))...))
	f.Add(logBytes(f, append(slices.Clone(notified), markCmd("exec.log", 5, sent), markCmd("exec.log", 0, closed))...))
	succeeded := append(slices.Clone(born), deliverCmd(copied("beta", 1, 3), released("alpha", 1, 3)), acquireCmd(beta, 1)) // epoch 5
	f.Add(logBytes(f, append(slices.Clone(succeeded), syncResumeCmd("mail", 5), deliverCmd(copied("alpha", 2, 5), copied("alpha", 3, 3), copied("alpha", 4, 9)), syncResumeCmd("mail", 5), syncResumeCmd("pages", 3))...))
	f.Add(logBytes(f, append(slices.Clone(born), freezeCmd("a", time.Hour), drainCmd("beta"), holdCmd(1, 3), deliverCmd(checkChange("alpha", 1, 3, true)), checkMoveCmd("op", 3, "beta"),
		deliverCmd(checkChange("alpha", 2, 3, false)), undrainCmd("beta"), resumeCmd(), unfreezeCmd(0))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		whole, continued := NewState(), NewState()
		epochs := map[uint64]bool{}
		for i, cmd := range logOf(data) {
			e := Entry{Index: uint64(i) + 1, Term: 1} //nolint:gosec // at most 128
			before, view := encodeAt(t, whole, 0), whole.View()
			shown := proto.Clone(whole.message())
			message := whole.message()
			v := whole.Apply(e, cmd)
			if v.Index != e.Index || whole.applied != e.Index {
				t.Fatalf("entry %d: the verdict names %d, the state %d", e.Index, v.Index, whole.applied)
			}
			if !proto.Equal(shown, message) {
				t.Fatalf("entry %d changed what a View had shown: %v", e.Index, cmd)
			}
			switch {
			case v.Refused != "":
				if string(before) != string(encodeAt(t, whole, 0)) {
					t.Fatalf("entry %d was refused (%s) and changed the state: %v", e.Index, v.Refused, cmd)
				}
			case cmd.GetAcquire() != nil:
				for _, c := range whole.View().Open {
					if whole.lastEpoch <= view.LastEpoch || c.GetEpoch() != e.Index && c.GetHandedTo() != e.Index {
						t.Fatalf("epoch %d was opened after %d, beside %v", e.Index, view.LastEpoch, c)
					}
				}
			}
			for _, c := range view.Open {
				if atRisk(c) && whole.View().Claim(c.GetEpoch()) == nil && cmd.GetDeliver() == nil && cmd.GetFarewell() == nil {
					t.Fatalf("entry %d closed epoch %d, whose owner may still write: %v", e.Index, c.GetEpoch(), cmd)
				}
			}
			for _, c := range whole.View().Open {
				if c.GetEpoch() > e.Index || view.Claim(c.GetEpoch()) == nil && epochs[c.GetEpoch()] {
					t.Fatalf("epoch %d is open again at entry %d", c.GetEpoch(), e.Index)
				}
				epochs[c.GetEpoch()] = true
			}
			continued = restored(t, continued)
			if again := continued.Apply(e, proto.CloneOf(cmd)); again != v {
				t.Fatalf("entry %d: %+v, and after a snapshot %+v", e.Index, v, again)
			}
			if string(encode(t, whole)) != string(encode(t, continued)) {
				t.Fatalf("entry %d leads to another state after a snapshot: %v", e.Index, cmd)
			}
		}
	})
}
