package cluster

import (
	"testing"

	"github.com/hashicorp/raft"

	hadv1 "had/proto/had/v1"
)

// What only a newer version understands stops this one: the others accept what it
// would refuse, and go on from another state. What changes no verdict does not.
func TestANewerKindStopsTheNode(t *testing.T) {
	alpha := instance("alpha", 1)
	acquired := acquireCmd(alpha, 1)
	acquired.GetAcquire().Evidence = []*hadv1.Evidence{{Epoch: 3, Kind: 77}}
	proven := released("alpha", 1, 3)
	proven.GetReleased().Kind = 77
	for name, c := range map[string]struct {
		cmd   *hadv1.Command
		stops bool
	}{
		"a record":                 {&hadv1.Command{}, true},
		"evidence of volumes":      {securedCmd("beta", secured(77, alpha, 1, 3, 3)), true},
		"evidence":                 {acquired, true},
		"the proof of a release":   {deliverCmd(proven), true},
		"what became of a message": {markCmd("mail", 1, 77), true},
		"what is only history":     {deliverCmd(progress("alpha", 1, 3, 77)), false},
		"what is known":            {securedCmd("beta", secured(hadv1.Secured_KIND_FENCED, alpha, 1, 3, 3)), false},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := encodeCommand(c.cmd)
			if err != nil {
				t.Fatal(err)
			}
			stopped := false
			f := newFSM(func() {}, func(error) { stopped = true })
			if f.Apply(&raft.Log{Index: 1, Term: 1, Data: data}); stopped != c.stops {
				t.Errorf("stopped: %t", stopped)
			}
		})
	}
}
