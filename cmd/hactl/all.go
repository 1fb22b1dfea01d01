package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	hadv1 "had/proto/had/v1"
)

// clusterStatus is what one of this host's daemons says of its cluster.
type clusterStatus struct {
	cluster string
	status  *hadv1.StatusResponse // nil: see err
	err     error
}

// judged is its level, and its line as a monitoring plugin would print it.
func (s clusterStatus) judged() (level, string) {
	if s.err != nil {
		return levelUnknown, s.cluster + ": " + oneLine(asFailure(s.err).Error())
	}
	v := judge(s.status)
	return v.level, summary(s.status, v)
}

// fetchAll asks every daemon of this host in turn.
func (c *cli) fetchAll(ctx context.Context) ([]clusterStatus, error) {
	switch {
	case c.cluster != "" || c.socket != "" || c.nodeAddress() != "":
		return nil, fail(exitUsage, "--all is every cluster of this host: leave --cluster, --socket and --address out")
	case c.env("HACTL_SOCKET") != "":
		return nil, fail(exitUsage, "--all is every cluster of this host, and HACTL_SOCKET names one: unset it")
	}
	clusters, err := c.clustersHere()
	if err != nil {
		return nil, err
	}
	if len(clusters) == 0 {
		return nil, c.noSocket()
	}
	var all []clusterStatus
	for _, name := range clusters {
		one := *c
		one.cluster = name
		s, err := one.fetchStatus(ctx)
		all = append(all, clusterStatus{name, s, err})
	}
	return all, nil
}

// allDocument is the answer of status --all in JSON: of each cluster its status, or
// why there is none.
type allDocument struct {
	SchemaVersion int          `json:"schema_version"`
	Clusters      []oneCluster `json:"clusters"`
}

type oneCluster struct {
	Cluster string          `json:"cluster"`
	Level   string          `json:"level"` // ok, warning, critical, unknown
	Line    string          `json:"line"`
	Status  json.RawMessage `json:"status"` // as of status -o json; null: there is none
}

// statusAll shows the clusters of this host, a line each. With check the exit code is
// that of the worst; else it fails when one doesn't answer.
func (c *cli) statusAll(ctx context.Context, check bool) error {
	all, err := c.fetchAll(ctx)
	if err != nil {
		if check {
			return c.printCheck(nil, err)
		}
		return err
	}
	worst, silent := levelOK, error(nil)
	doc := allDocument{SchemaVersion: schemaVersion}
	var text strings.Builder
	for _, s := range all {
		l, line := s.judged()
		worst = worse(worst, l)
		if s.err != nil {
			silent = s.err
		}
		one := oneCluster{Cluster: s.cluster, Level: strings.ToLower(l.String()), Line: line, Status: json.RawMessage("null")}
		if s.status != nil {
			one.Status = document(s.status)
		}
		doc.Clusters = append(doc.Clusters, one)
		if check {
			fmt.Fprintf(&text, "HAD %s - %s\n", l, strings.ReplaceAll(line, "|", "/"))
		} else {
			text.WriteString(c.view().paint(l.style(), fmt.Sprintf("%-8s", l)) + "  " + line + "\n")
		}
	}
	show := func() error { return c.print(text.String()) }
	if c.json() {
		show = func() error { return c.printValue(doc) }
	}
	switch err := show(); {
	case err != nil && !check:
		return err
	case err != nil:
		return &failure{code: int(levelUnknown)}
	case check && worst != levelOK:
		return &failure{code: int(worst)}
	case !check && silent != nil:
		return &failure{code: asFailure(silent).code}
	}
	return nil
}

// worse is the one of two levels that a person should hear of first: what is known to
// be broken before what isn't known.
func worse(a, b level) level {
	order := []level{levelOK, levelWarning, levelUnknown, levelCritical}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}
