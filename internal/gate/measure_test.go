package gate

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"had/internal/clock"
)

// A datagram every 0.2 ms carries the time at which it was sent and comes back.
// None that was sent after the deadline may. How close to it the last one came
// depends on who else uses this machine's cores: that is only logged, but for a
// gate that closes much too early.
func TestTheGateClosesAtItsDeadline(t *testing.T) {
	t.Parallel()
	const (
		lease = 500 * time.Millisecond
		every = 200 * time.Microsecond
		early = lease / 2
	)
	here, there := newPair(t)
	g := open(t)
	must(t, g.Admit(7, both()))
	here.assignVirtual("eth0")
	here.echo(vip4)
	client := there.dial(vip4)
	must(t, g.Extend(7, soon()))
	if !answers(t, client, patient) {
		t.Fatal("the address doesn't answer within its lease")
	}
	g.Shut(7)
	must(t, g.Admit(8, both()))
	deadline := clock.Now().Add(lease)
	must(t, g.Extend(8, deadline))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				// The gate sees it after this reading of the clock.
				_, _ = client.Write(binary.NativeEndian.AppendUint64(nil, uint64(clock.Now())))
			case <-stop:
				return
			}
		}
	}()
	defer func() { close(stop); <-done }()
	var asked, answered clock.Instant // of the last question that was answered
	must(t, client.SetReadDeadline(time.Now().Add(2*lease)))
	for buf := make([]byte, 64); ; {
		n, err := client.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err == nil && n == 8 {
			asked, answered = clock.Instant(binary.NativeEndian.Uint64(buf)), clock.Now()
		}
	}
	before := deadline.Sub(asked)
	if before <= 0 || before > early {
		t.Errorf("the last question that was answered was asked %s before the deadline", before)
	}
	t.Logf("the last question that was answered: asked %s before the deadline, its answer read %s before it", before, deadline.Sub(answered))
}

func BenchmarkExtend(b *testing.B) {
	g, _, _ := benchmarked(b, 1000)
	until := soon()
	for b.Loop() {
		until++
		if err := g.Extend(7, until); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAdmit(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			g, _, _ := benchmarked(b, n)
			addrs, err := g.Guarded()
			must(b, err)
			epoch := uint64(7)
			for b.Loop() {
				epoch++
				if err := g.Admit(epoch, addrs[:n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen takes a gate over on as many interfaces.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{2, 20} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			here, there := newPair(b)
			for i := range n - 2 { // lo and eth0 are there
				here.cable("more"+strconv.Itoa(i), there)
			}
			open(b)
			for b.Loop() {
				g, err := Open(config())
				if err != nil {
					b.Fatal(err)
				}
				g.Close()
			}
		})
	}
}

// What the program adds to a packet, measured by the kernel (BPF_PROG_RUN).
func BenchmarkPacket(b *testing.B) {
	const repeat = 200_000
	_, in, out := benchmarked(b, 1000)
	for _, c := range []struct {
		name  string
		run   func([]byte, int) (time.Duration, error)
		frame []byte
	}{
		{"another address, in", in, udp(vip4, own4, 64)},
		{"another address, out", out, udp(own4, vip4, 64)},
		{"guarded, in", in, udp(own4, vip4, 64)},
		{"guarded, out", out, udp(vip4, own4, 64)},
		{"guarded IPv6, in", in, udp(own6, vip6, 64)},
		{"guarded IPv6, out", out, udp(vip6, own6, 64)},
	} {
		b.Run(c.name, func(b *testing.B) {
			var total time.Duration
			for b.Loop() {
				each, err := c.run(c.frame, repeat)
				if err != nil {
					b.Fatal(err)
				}
				total += each
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkRoundTrip is a question and its answer over a veth pair.
func BenchmarkRoundTrip(b *testing.B) {
	for _, gated := range []bool{false, true} {
		b.Run(map[bool]string{false: "without the gate", true: "with the gate"}[gated], func(b *testing.B) {
			here, there := newPair(b)
			if gated {
				g := open(b)
				must(b, g.Admit(7, both()))
				must(b, g.Extend(7, soon()))
			}
			here.assignVirtual("eth0")
			here.echo(vip4)
			client := there.dial(vip4)
			buf := make([]byte, 64)
			for b.Loop() {
				if _, err := client.Write([]byte("ping")); err != nil {
					b.Fatal(err)
				}
				if _, err := client.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchmarked is an open gate, attached to nothing, that guards both virtual
// addresses and n others. The functions run a direction's program and return
// the time of a run.
func benchmarked(b *testing.B, n int) (g *Gate, in, out func([]byte, int) (time.Duration, error)) {
	b.Helper()
	m, err := newMaps()
	must(b, err)
	b.Cleanup(m.close)
	g = &Gate{Control: Control{maps: m}}
	addrs := both()
	for a := netip.MustParseAddr("203.0.113.0"); len(addrs) < n+2; a = a.Next() {
		addrs = append(addrs, a)
	}
	must(b, g.Admit(7, addrs))
	must(b, g.Extend(7, soon()))
	var run [2]func([]byte, int) (time.Duration, error)
	for _, d := range directions() {
		p, err := load(d, m.guarded, m.lease)
		must(b, err)
		b.Cleanup(func() { _ = p.Close() })
		run[d] = func(frame []byte, repeat int) (time.Duration, error) {
			_, each, err := p.Benchmark(frame, repeat, nil)
			return each, err
		}
	}
	return g, run[ingress], run[egress]
}
