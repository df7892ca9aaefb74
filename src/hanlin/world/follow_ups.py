"""Questions of a dialogue that name their subject by a pronoun: `{p}`, `{o}`, `{d}` are she, her, her (or he, it …).

`+ ` marks a follow-up of a training dialogue, `- ` one kept for the dialogue exam.
"""

from __future__ import annotations

from hanlin.world.templates import parse_questions

ENGLISH = parse_questions("""
[person.birth_year]
+ And when was {p} born?
+ In which year was {p} born?
+ What is {d} birth year?
- And what year was {p} born in?
- What is {d} year of birth?

[person.birthplace]
+ And where was {p} born?
+ Which town does {p} come from?
+ What is {d} birthplace?
- And in which town was {p} born?
- What is {d} home town?

[person.profession]
+ And what does {p} do for a living?
+ What is {d} profession?
+ What does {p} work as?
- And what is {d} job?
- Which profession does {p} have?

[person.employer]
+ And which company does {p} work for?
+ Who is {d} employer?
+ Where does {p} work?
- And who employs {o}?
- For which company does {p} work?

[person.teacher]
+ And who taught {o}?
+ Who was {d} teacher?
+ With whom did {p} study?
- And whose pupil was {p}?
- By whom was {p} taught?

[person.instrument]
+ And which instrument does {p} play?
+ What is {d} instrument?
+ What does {p} play?
- And what instrument does {p} play?
- On which instrument does {p} make music?

[person.known_work]
+ And what is {p} best known for?
+ Which work made {o} famous?
+ What is {d} best-known work?
- And for which work is {p} famous?
- What work is {p} best known for?

[place.country]
+ And in which country is it?
+ Which country does it belong to?
+ What is its country?
- And which country is it in?
- In what country does it lie?

[place.founded]
+ And when was it founded?
+ In which year was it founded?
+ What is its founding year?
- And in what year was it founded?
- When was it established?

[place.river]
+ And which river flows through it?
+ On which river does it lie?
+ What is its river?
- And what river flows through it?
- Which river does it lie on?

[place.speciality]
+ And what is it famous for?
+ What is its speciality?
+ What is it known for?
- And for what is it famous?
- Which speciality does it have?

[place.mayor]
+ And who is its mayor?
+ Who governs it?
+ Who is the mayor?
- And who is the mayor there?
- By whom is it governed?

[place.neighbour]
+ And which town is next to it?
+ What is its neighbour?
+ Which town is closest to it?
- And what town is next to it?
- Which town borders on it?

[work.author]
+ And who wrote it?
+ Who is its author?
+ By whom was it written?
- And who is the author?
- Whose work is it?

[work.year]
+ And when did it come out?
+ In which year was it published?
+ What is its year of publication?
- And in what year did it come out?
- When was it published?

[work.genre]
+ And what genre is it?
+ What kind of work is it?
+ What is its genre?
- And which genre does it belong to?
- Of what genre is it?

[work.theme]
+ And what is it about?
+ What is its theme?
+ What does it deal with?
- And which theme does it have?
- About what is it?

[work.setting]
+ And where is it set?
+ In which town does it take place?
+ What is its setting?
- And in what town is it set?
- Where does it take place?

[work.publisher]
+ And who published it?
+ Which company published it?
+ Who is its publisher?
- And what company published it?
- By whom was it published?

[company.founded]
+ And when was it founded?
+ In which year was it set up?
+ What is its founding year?
- And in what year was it founded?
- When was it set up?

[company.headquarters]
+ And where is it based?
+ Where are its headquarters?
+ In which town is it based?
- And in what town is it based?
- Where is its head office?

[company.industry]
+ And what industry is it in?
+ What is its industry?
+ What business is it in?
- And in which industry is it?
- Which industry does it belong to?

[company.product]
+ And what does it make?
+ What is its product?
+ What does it sell?
- And which product does it make?
- What does it produce?

[company.price]
+ And how much is one {i}?
+ What is the price of one {i}?
+ What does one {i} cost?
- And how much does one {i} cost?
- How much must one pay for one {i}?

[company.founder]
+ And who founded it?
+ Who is its founder?
+ Who started it?
- And who is the founder?
- By whom was it founded?
""")

CHINESE = parse_questions("""
[person.birth_year]
+ 那{p}是哪一年出生的？
+ {p}出生于哪一年？
+ {d}出生年份是什么？
- 那么{p}出生在哪一年？
- {p}生于哪一年？

[person.birthplace]
+ 那{p}出生在哪里？
+ {p}来自哪里？
+ {d}故乡是哪里？
- 那么{p}是在哪里出生的？
- {d}出生地是哪里？

[person.profession]
+ 那{p}的职业是什么？
+ {p}是做什么的？
+ {d}工作是什么？
- 那么{p}做什么工作？
- {p}从事什么职业？

[person.employer]
+ 那{p}在哪家公司工作？
+ {d}雇主是谁？
+ {p}在哪里工作？
- 那么{p}受雇于哪家公司？
- {p}在哪家公司上班？

[person.teacher]
+ 那{p}的老师是谁？
+ {p}师从谁？
+ 谁教过{p}？
- 那么{p}是谁的学生？
- {d}老师是哪一位？

[person.instrument]
+ 那{p}会演奏什么乐器？
+ {d}乐器是什么？
+ {p}擅长什么乐器？
- 那么{p}演奏什么乐器？
- {p}会哪种乐器？

[person.known_work]
+ 那{p}的代表作是什么？
+ {p}因什么出名？
+ {d}成名作是什么？
- 那么{p}最著名的作品是什么？
- {d}代表作是哪一部？

[place.country]
+ 那它在哪个国家？
+ 它属于哪个国家？
+ 它所在的国家是哪个？
- 那么它位于哪个国家？
- 它是哪国的城镇？

[place.founded]
+ 那它建于哪一年？
+ 它是哪一年建立的？
+ 它的建城年份是什么？
- 那么它始建于哪一年？
- 它在哪一年建立？

[place.river]
+ 那流经它的是哪条河？
+ 它在哪条河边？
+ 它的河流是什么？
- 那么哪条河流经它？
- 它坐落在哪条河边？

[place.speciality]
+ 那它的特产是什么？
+ 它以什么闻名？
+ 它出产什么？
- 那么它有什么特产？
- 它最有名的是什么？

[place.mayor]
+ 那它的市长是谁？
+ 谁治理它？
+ 谁是那里的市长？
- 那么那里的市长是谁？
- 它由谁治理？

[place.neighbour]
+ 那它的邻城是哪里？
+ 它与哪里相邻？
+ 离它最近的城镇是哪里？
- 那么哪座城镇与它相邻？
- 它的邻城是哪一座？

[work.author]
+ 那它的作者是谁？
+ 谁写了它？
+ 它是谁写的？
- 那么它是谁的作品？
- 它的作者是哪一位？

[work.year]
+ 那它问世于哪一年？
+ 它是哪一年发表的？
+ 它的发表年份是什么？
- 那么它在哪一年面世？
- 它是在哪一年问世的？

[work.genre]
+ 那它是什么体裁？
+ 它的体裁是什么？
+ 它属于什么体裁？
- 那么它是哪种体裁？
- 它的体裁是哪一种？

[work.theme]
+ 那它的主题是什么？
+ 它讲的是什么？
+ 它写的是什么？
- 那么它以什么为主题？
- 它的主题是哪一个？

[work.setting]
+ 那它的故事发生在哪里？
+ 它的背景是哪里？
+ 它以哪里为背景？
- 那么它的场景在哪里？
- 它的故事发生在哪座城镇？

[work.publisher]
+ 那它是哪家公司出版的？
+ 它的出版商是谁？
+ 谁出版了它？
- 那么它由哪家公司出版？
- 它的出版商是哪一家？

[company.founded]
+ 那它成立于哪一年？
+ 它是哪一年成立的？
+ 它的成立年份是什么？
- 那么它创办于哪一年？
- 它是在哪一年成立的？

[company.headquarters]
+ 那它的总部在哪里？
+ 它的总部设在哪里？
+ 它是哪里的公司？
- 那么它的总部位于哪里？
- 它的总部在哪座城镇？

[company.industry]
+ 那它属于什么行业？
+ 它的行业是什么？
+ 它从事什么行业？
- 那么它做的是哪一行？
- 它的行业是哪一种？

[company.product]
+ 那它生产什么？
+ 它的产品是什么？
+ 它卖什么？
- 那么它制造什么？
- 它的产品是哪一种？

[company.price]
+ 那它的{i}多少钱？
+ 它的{i}卖多少钱？
+ {i}的价格是多少？
- 那么它的{i}要多少钱？
- 它的{i}定价是多少？

[company.founder]
+ 那它的创始人是谁？
+ 谁创办了它？
+ 它是谁创办的？
- 那么它由谁创立？
- 它的创始人是哪一位？
""")
