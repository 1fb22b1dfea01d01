package nettest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"had/internal/lab"
)

const (
	pages    = 20
	pageSize = 64 << 10
	// readPause is the time between two requests, and readPatience how long
	// a reader waits for one.
	readPause    = 5 * time.Millisecond
	readPatience = 300 * time.Millisecond
)

// webSite is nginx as an example has it, with somebody who reads its pages all the
// time.
type webSite struct {
	*exampleSite

	content map[string]string
	reader  *pageReader
}

func newWebSite(t *testing.T, name string, volumes ...lab.Volume) *webSite {
	t.Helper()
	needs(t, "nginx")
	w := &webSite{exampleSite: newExampleSite(t, name, volumes...), content: map[string]string{}}
	for i := range pages {
		page := make([]byte, pageSize)
		_, _ = rand.Read(page) // never fails
		w.content[fmt.Sprintf("page-%d", i)] = string(page)
	}
	w.content["index.html"] = "hello\n"
	for _, node := range w.owners() {
		w.run(t, node, "mkdir -p /var/log/nginx && rm -rf /etc/nginx/conf.d/* /etc/nginx/sites-enabled/*")
		w.does(t, node, "install -m 0644 web.conf /etc/nginx/conf.d/")
	}
	w.reader = &pageReader{client: w.Client, address: w.address, content: w.content}
	w.served = w.reader.answeredBy
	return w
}

// publish puts the pages into a folder of a host.
func (w *webSite) publish(t *testing.T, host, dir string) {
	t.Helper()
	from := filepath.Join(t.TempDir(), "pages")
	must(t, os.Mkdir(from, 0o755))
	for name, text := range w.content {
		must(t, os.WriteFile(filepath.Join(from, name), []byte(text), 0o644))
	}
	w.run(t, host, "mkdir -p "+dir+" && cp -r "+from+"/. "+dir)
}

// read begins to read, until the test ends.
func (w *webSite) read(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { w.reader.run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

// pageReader fetches one page after another, over a connection each.
type pageReader struct {
	client  *lab.Host
	address netip.Addr
	content map[string]string

	mu      sync.Mutex
	answers []pageAnswer
	wrong   []string
}

type pageAnswer struct {
	at   time.Time
	host string
}

func (r *pageReader) run(ctx context.Context) {
	tick := time.NewTicker(readPause)
	defer tick.Stop()
	web := http.Client{Timeout: readPatience, Transport: &http.Transport{DialContext: r.client.DialContext, DisableKeepAlives: true}}
	for {
		name := fmt.Sprintf("page-%d", mathrand.N(pages))
		host, text, err := fetch(ctx, &web, "http://"+r.address.String()+"/"+name)
		r.mu.Lock()
		switch {
		case err != nil: // nobody serves
		case text != r.content[name]:
			r.wrong = append(r.wrong, fmt.Sprintf("%s of %s isn't what was published (%d bytes)", name, host, len(text)))
		default:
			r.answers = append(r.answers, pageAnswer{time.Now(), host})
		}
		r.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// fetch returns a page and who served it.
func fetch(ctx context.Context, web *http.Client, url string) (host, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", "", err
	}
	resp, err := web.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return resp.Header.Get("X-Served-By"), string(b), err
}

// answeredBy says why the reader wasn't answered by a host last.
func (r *pageReader) answeredBy(_ *testing.T, host string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.answers); n == 0 || r.answers[n-1].host != host || time.Since(r.answers[n-1].at) > readPatience {
		return fmt.Errorf("no page comes from %s", host)
	}
	return nil
}

// gap is the longest time without a page since a moment.
func (r *pageReader) gap(since time.Time) (gap time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, a := range r.answers {
		if i > 0 && a.at.After(since) {
			gap = max(gap, a.at.Sub(r.answers[i-1].at))
		}
	}
	return gap
}

// endBy makes trouble for the owner and says how long no page came.
func (w *webSite) endBy(t *testing.T, tr trouble) {
	t.Helper()
	t.Run(tr.name, func(t *testing.T) {
		began := time.Now()
		w.mendAll(t)
		owner := w.ready(t)
		struck := time.Now()
		next := w.suffer(t, tr, owner)
		t.Logf("%s → %s: no page for %v; the whole took %v", owner, next, w.reader.gap(struck), time.Since(began))
	})
}

// conclude judges the whole.
func (w *webSite) conclude(t *testing.T, since time.Time) {
	t.Helper()
	if t.Failed() {
		return
	}
	w.judgeExample(t, since)
	w.reader.mu.Lock()
	defer w.reader.mu.Unlock()
	for _, wrong := range w.reader.wrong {
		t.Error(wrong)
	}
	t.Logf("%d pages were read, each as it was published", len(w.reader.answers))
}

func TestWebFilesFollowTheOwner(t *testing.T) {
	t.Parallel()
	began := time.Now()
	w := newWebSite(t, "web-volume", lab.Volume{Name: "web", FSType: "xfs"})
	w.enact(t)
	first := w.settled(t)
	w.mounted(t, first)
	w.publish(t, first, "/srv/web/pages")
	w.install(t)
	w.moveOn(t, first)
	w.read(t)
	for _, tr := range troubles()[:4] {
		w.endBy(t, tr)
	}

	// Where nginx doesn't start, the other server gets the turn back.
	t.Run("nginx doesn't start", func(t *testing.T) {
		w.mendAll(t)
		owner := w.ready(t)
		other := w.other(owner)
		w.run(t, other, "echo nonsense >/etc/nginx/conf.d/broken.conf")
		w.moveFails(t, owner, other, "PreAcq")
		w.run(t, other, "rm /etc/nginx/conf.d/broken.conf")
	})
	w.conclude(t, began)
	w.emptied(t)
}

func TestWebServerOnBoth(t *testing.T) {
	t.Parallel()
	began := time.Now()
	w := newWebSite(t, "web")
	for _, node := range w.owners() {
		w.publish(t, node, filepath.Join(w.Host(node).Dir(), "own/var/www/html"))
		w.run(t, node, "service nginx start")
	}
	w.install(t)
	w.enact(t)
	w.settled(t)
	w.read(t)
	for _, tr := range troubles()[:2] {
		w.endBy(t, tr)
	}

	t.Run("the other has no web server", func(t *testing.T) {
		w.mendAll(t)
		owner := w.ready(t)
		other := w.other(owner)
		w.run(t, other, "service nginx stop")
		eventually(t, "a move to a server without a web server is refused for its Test", func() error {
			_, err := w.move(t, owner, other)
			switch {
			case err == nil:
				t.Error("it was accepted")
				return nil
			case strings.Contains(err.Error(), "Test"):
				return nil
			}
			return err
		})
		w.run(t, other, "service nginx start")
	})
	w.conclude(t, began)
}
