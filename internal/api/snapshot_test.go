package api

import (
	"fmt"
	"strings"
	"testing"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

func savedState() *hadv1.SnapshotRestoreRequest {
	return &hadv1.SnapshotRestoreRequest{
		Cluster: "office", ClusterId: "3f9c0a1b00000000000000000000cafe", Index: 42, By: "root on alpha", Reason: "new servers",
		Policy:  &hadv1.Policy{Version: 4, Text: "old"},
		Tokens:  []*hadv1.Token{{Name: "afp", Current: &hadv1.TokenVersion{Version: 7, Sealed: []byte("then"), KeyId: "k1", Size: 80}}},
		Drained: []*hadv1.Drain{{Node: "beta", By: "anna", Reason: "disk"}, {Node: "delta"}},
	}
}

// What is there stays; what isn't is added, as the next version and in the end the
// policy.
func TestWhatIsRestored(t *testing.T) {
	s := &Server{cfg: Config{Members: func() []*hadv1.Member { return []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}} }}}
	for _, c := range []struct {
		name string
		view cluster.View
		want string
	}{
		{"a new cluster", cluster.View{}, `drain of beta RESTORED, drain of delta KEPT, token afp, version 7 RESTORED, policy version 4 RESTORED: drain:{node:"beta" by:"root on alpha" reason:"disk"} token_set:0 policy_apply:0`},
		{"the same cluster later", cluster.View{
			Policy: &hadv1.Policy{Version: 6, Text: "new"},
			Tokens: []*hadv1.Token{{Name: "afp", Current: &hadv1.TokenVersion{Version: 9, Sealed: []byte("now")}}},
		}, "drain of beta KEPT, drain of delta KEPT, token afp, version 7 KEPT, policy version 4 RESTORED: policy_apply:6"},
		{"nothing has changed", cluster.View{
			Policy: &hadv1.Policy{Version: 4, Text: "old"}, Tokens: savedState().GetTokens(), Drained: map[string]*hadv1.Drain{"beta": {}},
		}, "drain of beta SAME, drain of delta KEPT, token afp, version 7 SAME, policy version 4 SAME:"},
		{"a token was forgotten", cluster.View{Policy: &hadv1.Policy{Version: 4, Text: "old"}}, "drain of beta KEPT, drain of delta KEPT, token afp, version 7 RESTORED, policy version 4 SAME: token_set:0"},
	} {
		var items, cmds []string
		for _, r := range s.restorations(c.view, savedState()) {
			items = append(items, r.item.GetWhat()+" "+strings.TrimPrefix(r.item.GetOutcome().String(), "OUTCOME_"))
			if (r.cmd != nil) != (r.item.GetOutcome() == hadv1.RestoredItem_OUTCOME_RESTORED) {
				t.Errorf("%s: %s has the record %v", c.name, items[len(items)-1], r.cmd)
			}
			switch r := r.cmd.GetRecord().(type) {
			case nil:
			case *hadv1.Command_Drain:
				cmds = append(cmds, fmt.Sprintf("drain:{node:%q by:%q reason:%q}", r.Drain.GetNode(), r.Drain.GetBy(), r.Drain.GetReason()))
			case *hadv1.Command_TokenSet:
				cmds = append(cmds, fmt.Sprintf("token_set:%d", r.TokenSet.GetExpectedVersion()))
				if string(r.TokenSet.GetSealed()) != "then" || r.TokenSet.GetKeyId() != "k1" || r.TokenSet.GetEpoch() != 0 {
					t.Errorf("%s: the token's record is %v", c.name, r.TokenSet)
				}
			case *hadv1.Command_PolicyApply:
				cmds = append(cmds, fmt.Sprintf("policy_apply:%d", r.PolicyApply.GetExpectedVersion()))
				if p := r.PolicyApply; p.GetText() != "old" || !strings.Contains(p.GetReason(), "office at entry 42: new servers") {
					t.Errorf("%s: the policy's record is %v", c.name, p)
				}
			default:
				t.Errorf("%s: a restore proposes %v", c.name, r)
			}
		}
		if got := strings.Join(items, ", ") + strings.TrimSuffix(": "+strings.Join(cmds, " "), " "); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestAFileOfAnotherClusterIsRefused(t *testing.T) {
	const id = "3f9c0a1b00000000000000000000cafe"
	for _, c := range []struct {
		name, replaces string
		birth          *hadv1.Birth
		want           string
	}{
		{"this one's", "", &hadv1.Birth{ClusterId: id}, ""},
		{"of an earlier generation", "", &hadv1.Birth{ClusterId: "c2", Former: []string{"c0", id}}, ""},
		{"another's", "", &hadv1.Birth{Cluster: "office", ClusterId: "c2"}, "had runs on none of its nodes any more: --replaces 3f9c0a1b"},
		{"named", "3f9c0a1b", &hadv1.Birth{ClusterId: "c2"}, ""},
		{"named in full", id, &hadv1.Birth{ClusterId: "c2"}, ""},
		{"too short", "3f9c0a1", &hadv1.Birth{ClusterId: "c2"}, "the snapshot is of the cluster with the ID " + id},
		{"another name", "3f9c0a1c", &hadv1.Birth{ClusterId: "c2"}, "the snapshot is of the cluster with the ID " + id},
		{"not born yet", "", nil, "--replaces"},
	} {
		err := sameCluster(c.birth, &hadv1.SnapshotRestoreRequest{Cluster: "office", ClusterId: id, Replaces: c.replaces})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
