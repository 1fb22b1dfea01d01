package telemetry

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"had/cluster"
)

// page is one answer of /metrics while it is filled.
type page struct {
	known    map[string]Metric
	order    []string
	common   []*dto.LabelPair
	families map[string]*dto.MetricFamily
}

func newPage(clusterName, node string) *page {
	p := &page{known: map[string]Metric{}, families: map[string]*dto.MetricFamily{}}
	for _, m := range Catalogue() {
		p.known[m.Name] = m
		p.order = append(p.order, m.Name)
	}
	p.common = []*dto.LabelPair{label("cluster", clusterName), label("node", node)}
	return p
}

func label(name, value string) *dto.LabelPair {
	return &dto.LabelPair{Name: new(name), Value: new(strings.ToValidUTF8(value, "\uFFFD"))}
}

// add appends a sample of a metric of the catalogue; the values are of its labels,
// in their order.
func (p *page) add(name string, values ...string) *dto.Metric {
	known, ok := p.known[name]
	if !ok || len(values) != len(known.Labels) {
		panic(fmt.Sprintf("telemetry: %s with %d labels is not in the catalogue", name, len(values)))
	}
	m := &dto.Metric{Label: slices.Clone(p.common)}
	for i, v := range values {
		m.Label = append(m.Label, label(known.Labels[i], v))
	}
	f := p.families[name]
	if f == nil {
		f = &dto.MetricFamily{Name: &known.Name, Type: known.Type.Enum(), Help: &known.Help}
		p.families[name] = f
	}
	f.Metric = append(f.Metric, m)
	return m
}

func (p *page) set(name string, v float64, values ...string) {
	m := p.add(name, values...)
	if p.known[name].Type == dto.MetricType_COUNTER {
		m.Counter = &dto.Counter{Value: &v}
		return
	}
	m.Gauge = &dto.Gauge{Value: &v}
}

func (p *page) is(name string, yes bool, values ...string) {
	v := 0.0
	if yes {
		v = 1
	}
	p.set(name, v, values...)
}

func (p *page) seconds(name string, d time.Duration, values ...string) {
	p.set(name, d.Seconds(), values...)
}

func (p *page) unix(name string, t time.Time, values ...string) {
	p.set(name, float64(t.UnixMilli())/1000, values...)
}

// tally is how often something happened, and how long it took in all.
type tally struct {
	count uint64
	sum   time.Duration
}

func (p *page) summary(name string, t tally, values ...string) {
	p.add(name, values...).Summary = &dto.Summary{SampleCount: &t.count, SampleSum: new(t.sum.Seconds())}
}

func (p *page) histogram(name string, l cluster.Latency, values ...string) {
	h := &dto.Histogram{SampleCount: new(uint64), SampleSum: new(l.Sum.Seconds())}
	for i, n := range l.Counts {
		*h.SampleCount += n
		if i < len(l.Bounds) {
			h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: new(l.Bounds[i].Seconds()), CumulativeCount: new(*h.SampleCount)})
		}
	}
	p.add(name, values...).Histogram = h
}

// text is the page in Prometheus' format.
func (p *page) text() ([]byte, error) {
	var b bytes.Buffer
	for _, name := range p.order {
		if f := p.families[name]; f != nil {
			if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
				return nil, fmt.Errorf("write the metric %s: %w", name, err)
			}
		}
	}
	return b.Bytes(), nil
}

// sorted are the entries of a map by their keys.
func sorted[V any](m map[string]V) func(yield func(string, V) bool) {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
