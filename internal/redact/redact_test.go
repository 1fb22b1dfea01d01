package redact

import (
	"strings"
	"testing"
)

// mark stands for a secret in the cases below: it must be gone, and the rest must be
// as it was.
const mark = "M4rk-s3cret/x"

func TestTextHidesWhatStandsWhereSecretsDo(t *testing.T) {
	for text, want := range map[string]string{
		`password = "M4rk-s3cret/x"`:                                                        `password = "(secret)"`,
		`RSYNC_PASSWORD=M4rk-s3cret/x rsync -a`:                                             `RSYNC_PASSWORD=(secret) rsync -a`,
		`{"smtp_password": "M4rk-s3cret/x", "a": 1}`:                                        `{"smtp_password": "(secret)", "a": 1}`,
		`"text": "password = \"M4rk-s3cret/x\"\n"`:                                          `"text": "password = \"(secret)\"\n"`,
		`community='M4rk-s3cret/x'`:                                                         `community='(secret)'`,
		`X-Api-Key: M4rk-s3cret/x`:                                                          `X-Api-Key: (secret)`,
		`fence_ipmilan --password M4rk-s3cret/x -a 1`:                                       `fence_ipmilan --password (secret) -a 1`,
		`["fence_x", "--passwd", "M4rk-s3cret/x", "-v"]`:                                    `["fence_x", "--passwd", "(secret)", "-v"]`,
		`["fence_x", "--passwd=M4rk-s3cret/x"]`:                                             `["fence_x", "--passwd=(secret)"]`,
		`["curl", "-u", "admin:M4rk-s3cret/x", "http://a"]`:                                 `["curl", "-u", "admin:(secret)", "http://a"]`,
		`curl --user admin:M4rk-s3cret/x x`:                                                 `curl --user admin:(secret) x`,
		`-H "Authorization: Bearer M4rk-s3cret/x"`:                                          `-H "Authorization: Bearer (secret)"`,
		`got Basic M4rk-s3cret/x back`:                                                      `got Basic (secret) back`,
		`rsync://joe:M4rk-s3cret@host/pages`:                                                `rsync://(secret)@host/pages`,
		`Get "https://a.example/x?key=M4rk-s3cret/x": EOF`:                                  `Get "https://a.example/x?(secret)": EOF`,
		`rw,user=joe%M4rk-s3cret/x,uid=0`:                                                   `rw,user=joe%(secret),uid=0`,
		`pass=M4rk-s3cret/x,ro`:                                                             `pass=(secret),ro`,
		"a\n-----BEGIN EC PRIVATE KEY-----\nM4rk-s3cret/x\n-----END EC PRIVATE KEY-----\nb": "a\n(secret)\nb",
		`"-----BEGIN PRIVATE KEY-----\nM4rk-s3cret/x\n`:                                     `"(secret)`, // cut off
	} {
		got := Text(text)
		if got != want {
			t.Errorf("%s\nbecomes %s\nwant    %s", text, got, want)
		}
		if strings.Contains(got, "M4rk") {
			t.Errorf("%s still has the secret", got)
		}
		if again := Text(got); again != got {
			t.Errorf("%s becomes %s when it is done again", got, again)
		}
	}
}

func TestTextLeavesTheRest(t *testing.T) {
	for _, text := range []string{
		`password_file = "/etc/had/secrets/smtp"`, `url_file = "/etc/had/secrets/chat-url"`, `token_key = "/etc/had/token.key"`,
		`events = ["token", "certificate"]`, `reconnect_token "afp" {`, `url = "http://127.0.0.1/healthz"`,
		"epoch 49, alpha: owns 192.0.2.10 after beta", "interface eth0 of 192.0.2.10 has no link", `passwd_script = "/usr/local/sbin/pw"`,
		`2026-11-30T20:15:00Z alpha had[12]: [INFO] took over: epoch=5`, "its user: root", `methods = ["agent", "watchdog"]`,
	} {
		if got := Text(text); got != text {
			t.Errorf("%s becomes %s", text, got)
		}
	}
}

func TestHide(t *testing.T) {
	const secret = `a"b'c d/` + mark
	for _, text := range []string{
		secret, `{"x":"a\"b'c d/M4rk-s3cret/x"}`, "https://h/a%22b%27c+d%2FM4rk-s3cret%2Fx", `'a"b\'c d/M4rk-s3cret/x'`, `'a"b'"'"'c d/M4rk-s3cret/x'`,
	} {
		if got := Hide(text, []string{mark[:5], secret}); strings.Contains(got, "M4rk") || strings.Contains(got, "a%22b") {
			t.Errorf("%s becomes %s", text, got)
		}
	}
	if got := Hide("as it was", nil); got != "as it was" {
		t.Errorf("without secrets: %s", got)
	}
}
